"""A session's requests follow one another: whenever a device has read a request's last frame, it may begin the next one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import pytest

from cloud_node.engine.lane import Lane
from cloud_node.engine.prefix_cache import PrefixCache
from cloud_node.engine.recent import RecentMean
from cloud_node.engine.torch_engine import TorchEngine
from cloud_node.settings import CloudLimits
from cloud_node.worker.admission import Admission
from cloud_node.worker.runtime import Runtime
from cloud_node.worker.session import Session
from splitvlm.codec.codec import Codec
from splitvlm.domain import IMAGE, TOKENS
from splitvlm.errors import ProtocolError
from splitvlm.model.boundary import to_arrays
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.prompt import Prompt
from splitvlm.wire.v1 import data_pb2 as pb
from tests.samples import PICTURE, tiny_model

LIMITS = CloudLimits(max_new_tokens=32)
TURNS = 20  # of the event loop, in which a device that is at once there acts before `send` returns


class Wire:
    """A stream whose frames are not sealed, and whose device reads each frame before the cloud's `send` returns."""

    def __init__(self) -> None:
        self.bytes_received = 0
        self.ended_by: type[Exception] | None = None  # what a test expects
        self.to_device: asyncio.Queue[pb.CloudFrame] = asyncio.Queue()
        self.to_cloud: asyncio.Queue[pb.DeviceFrame | None] = asyncio.Queue()

    def open(self, frame: pb.DeviceFrame) -> pb.DeviceFrame:
        self.bytes_received += frame.ByteSize()
        return frame

    async def send(self, frame: pb.CloudFrame) -> None:
        self.to_device.put_nowait(frame)
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def say(self, **body: Any) -> None:
        self.to_cloud.put_nowait(pb.DeviceFrame(**body))

    async def last_frame(self) -> pb.CloudFrame:
        """Reads up to the request's end or failure."""
        while (frame := await asyncio.wait_for(self.to_device.get(), 20)).WhichOneof("body") in ("receipt", "token"):
            pass
        return frame


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[tuple[Wire, Admission]]:
    wire, waits = Wire(), RecentMean(2.0)
    engine, pictures = (
        TorchEngine(part(), 2**26, lambda between: Lane("torch", waits, between=between)),
        Lane("pictures", waits),
    )
    admission = Admission(LIMITS, lambda *_: 0.0)
    runtime = Runtime(part(), Codec(), engine, pictures, admission, PrefixCache(2**20, 60.0))
    made = Session(wire, runtime, LIMITS, "edge-1", lambda: None)  # type: ignore[arg-type]
    running = asyncio.create_task(made.run(wire.to_cloud.get))  # type: ignore[arg-type]
    try:
        yield wire, admission
        wire.to_cloud.put_nowait(None)
        if wire.ended_by is None:
            await asyncio.wait_for(running, 20)
        else:
            with pytest.raises(wire.ended_by, match="before the last one ended"):
                await asyncio.wait_for(running, 20)
        assert admission.working_bytes == 0
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        engine.close()
        pictures.close()


@cache
def part() -> Any:
    return load_cloud(tiny_model("scenes-like"), [IMAGE])


@cache
def payload() -> bytes:
    device = load_device(tiny_model("scenes-like"), [TOKENS])
    return Codec().encode(TOKENS, to_arrays(device.lower(Prompt.about(PICTURE, "How many?"), TOKENS).boundary), "int8")


def begin(**other: Any) -> pb.Begin:
    return pb.Begin(**({"plan": "tokens/int8", "max_new_tokens": 2, "first": payload()} | other))


async def is_answered(wire: Wire) -> None:
    wire.say(begin=begin())
    assert (await wire.last_frame()).end.reason in (pb.End.REASON_EOS, pb.End.REASON_LENGTH)


async def test_the_next_request_may_follow_an_end_at_once() -> None:
    async with session() as (wire, _):
        for _ in range(5):
            await is_answered(wire)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no boundary": ({"first": b"\x80\x04K\x01."}, "protocol"),
    "evicted": ({"prefix_cached": True, "prefix": bytes(8)}, "prefix-evicted"),
    "an unknown level": ({"plan": "tokens/pickle"}, "usage"),
    "refused before its payload": ({"max_new_tokens": 1_000}, "usage"),
}


@pytest.mark.parametrize(("wrong", "code"), REFUSED.values(), ids=REFUSED)
async def test_the_next_request_may_follow_a_failure_at_once(wrong: dict[str, Any], code: str) -> None:
    async with session() as (wire, _):
        for _ in range(3):
            wire.say(begin=begin(**wrong))
            assert (await wire.last_frame()).failure.code == code
            await is_answered(wire)


async def test_what_a_library_raises_fails_its_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: the exceptions of the libraries below are not listed anywhere."""

    class Unheard(Exception):
        pass

    def broken(*_: Any) -> Any:
        raise Unheard("with a detail that no peer may read")

    async with session() as (wire, _):
        with monkeypatch.context() as patched:
            patched.setattr(part(), "upper", broken)
            wire.say(begin=begin())
            failure = (await wire.last_frame()).failure
            assert failure.code == "internal"
            assert "detail" not in str(failure)
        await is_answered(wire)


def cancel_at_once(wire: Wire) -> None:
    wire.say(begin=begin(max_new_tokens=32))
    wire.say(cancel=pb.Cancel())


def cancel_an_upload(wire: Wire) -> None:
    wire.say(begin=begin(payload_bytes=len(payload()), first=payload()[:10]))
    wire.say(cancel=pb.Cancel())
    wire.say(chunk=payload()[10:])  # was on its way


@pytest.mark.parametrize("cancelled", [cancel_at_once, cancel_an_upload])
async def test_a_cancelled_request_has_one_end_and_the_next_may_follow(cancelled: Callable[[Wire], None]) -> None:
    async with session() as (wire, admission):
        for _ in range(3):
            cancelled(wire)
            assert (await wire.last_frame()).end.reason == pb.End.REASON_CANCELLED
            assert admission.working_bytes == 0
            await is_answered(wire)


async def test_a_cancel_that_crosses_the_end_is_no_second_end() -> None:
    async with session() as (wire, _):
        wire.say(begin=begin())
        while (frame := await wire.to_device.get()).WhichOneof("body") != "end":
            pass
        assert frame.end.reason != pb.End.REASON_CANCELLED
        wire.say(cancel=pb.Cancel())  # was on its way
        await is_answered(wire)
        assert wire.to_device.empty()


async def test_a_request_within_another_ends_the_session() -> None:
    async with session() as (wire, _):
        wire.say(begin=begin(max_new_tokens=32))
        wire.say(begin=begin())
        wire.ended_by = ProtocolError


async def test_a_variant_that_the_node_does_not_serve_is_refused_by_name() -> None:
    async with session() as (wire, _):
        wire.say(begin=begin(plan="tokens/int8@w8"))
        failure = (await wire.last_frame()).failure
        assert (failure.code, failure.sentence) == ("usage", "This cloud node does not serve the variant w8.")
        await is_answered(wire)
