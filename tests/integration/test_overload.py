"""A cloud node without room says when to ask again; devices turn to others, wait, or answer alone; nothing is held for ever."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from cloud_node.engine.kv_rows import RowKind
from cloud_node.engine.torch_engine import TorchEngine
from cloud_node.settings import CloudLimits
from cloud_node.worker import payload as payloads
from edge_node.answering.answerer import cloud_is_usable
from edge_node.cloud.session import CloudSession
from splitvlm.codec.boundary import decoding_bytes
from splitvlm.codec.limits import CodecLimits
from splitvlm.crypto.identity import Identity, Role
from splitvlm.domain import Conversation, Cut
from splitvlm.errors import CapacityError, DeadlineExceeded
from splitvlm.model.batch.decoder import LEAST_CAPACITY
from splitvlm.model.prompt import Prompt
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.wire.v1 import data_pb2 as pb
from tests.nodes import Cloud, Device, Keys, cloud_node, device, until
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"
PLAN = "tokens/lossless"


@pytest.fixture(scope="module")
def model() -> str:
    return tiny_model("scenes-like")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
async def cloud(model: str, keys: Keys) -> AsyncIterator[Cloud]:
    """A node for which no time passes: a quota is not refilled, however slow the test's machine is."""
    async with cloud_node(model, keys, limits=CloudLimits(requests_per_minute=2, max_sessions_per_device=1)) as made:
        made.worker.runtime.admission._clock = lambda: 1.0
        yield made


@pytest.fixture
async def camera(model: str, keys: Keys, cloud: Cloud) -> AsyncIterator[Device]:
    async with device(model, cloud, keys.identity("edge-1", Role.EDGE)) as made:
        yield made


async def test_a_device_beyond_its_quota_is_told_when_to_come_back_and_others_are_served(
    model: str, keys: Keys, cloud: Cloud, camera: Device
) -> None:
    first = await camera.ask(PLAN, PICTURE, QUESTION, 2)
    await camera.ask(PLAN, PICTURE, QUESTION, 2)
    with pytest.raises(CapacityError, match="edge-1 has asked more than") as refused:
        await camera.ask(PLAN, PICTURE, QUESTION, 2)
    assert refused.value.retry_after_s == 30
    assert not camera.link.health.has_room  # until then it is not asked, where the device or another can answer
    assert camera.link.health.reachable
    async with device(model, cloud, keys.identity("edge-2", Role.EDGE)) as other:
        assert (await other.ask(PLAN, PICTURE, QUESTION, 2)).token_ids == first.token_ids
    report = await camera.ask(PLAN, PICTURE, QUESTION, 2, finish_alone=True)
    assert report.token_ids == first.token_ids
    assert [fault.code for fault in report.faults] == ["capacity"]


async def test_what_waits_for_room_gets_it_when_there_is_some(cloud: Cloud, camera: Device) -> None:
    """One session only, and it is busy: the second question is refused, waits, and is answered."""
    running = camera.run(PLAN, Prompt.about(PICTURE, QUESTION), 64)
    await anext(running)
    waiting = asyncio.create_task(camera.ask(PLAN, PICTURE, QUESTION, 2))
    await until(lambda: cloud.servicer.refused["capacity"] == 1)
    await running.aclose()
    report = await asyncio.wait_for(waiting, 60)
    assert report.token_ids
    assert [fault.code for fault in report.faults] == ["capacity"]


async def test_memory_for_requests_is_counted_before_it_is_taken_and_comes_back(model: str, keys: Keys) -> None:
    limits = CloudLimits(working_bytes=2**20)
    async with (
        cloud_node(model, keys, limits=limits) as cloud,
        device(model, cloud, keys.identity("e", Role.EDGE)) as camera,
    ):
        admission = cloud.worker.runtime.admission
        others = [admission.reservation(f"other-{number}") for number in range(10)]
        for number, other in enumerate(others, start=1):
            other.more(2 ** (20 - number))
        with pytest.raises(CapacityError, match="memory for running requests is full"):
            await camera.ask(PLAN, PICTURE, QUESTION, 2)
        for other in others:
            other.release()
        running = camera.run(PLAN, Prompt.about(PICTURE, QUESTION), 64)
        await anext(running)
        assert admission.working_bytes > 1_000
        await running.aclose()
        await until(lambda: admission.working_bytes == 0)
        assert (await camera.ask(PLAN, PICTURE, QUESTION, 2)).token_ids
        await until(lambda: admission.working_bytes == 0)


async def test_a_question_waits_until_others_leave_memory_for_caches(model: str, keys: Keys) -> None:
    async with (
        cloud_node(model, keys, limits=CloudLimits(kv_budget_bytes=2**20)) as cloud,
        device(model, cloud, keys.identity("edge-1", Role.EDGE)) as camera,
    ):
        engine = cloud.worker.runtime.engine
        assert isinstance(engine, TorchEngine)
        budget, kind = engine.admission.budget, RowKind(engine.part.spec.lm_layers, LEAST_CAPACITY)
        others = []
        with contextlib.suppress(CapacityError):
            for number in range(100):
                others.append(engine.admission.admit(f"other-{number}", kind, 8))
        assert len(others) < 100
        asking = asyncio.create_task(camera.ask(PLAN, PICTURE, QUESTION, 2))
        await until(lambda: "edge-1" in budget._line)
        for row in others:
            row.give_back()
        report = await asyncio.wait_for(asking, 60)
        assert report.token_ids
        assert [fault.code for fault in report.faults] == ["capacity"]
        await until(lambda: budget.held_bytes == 0)


@pytest.mark.parametrize("alone", [True, False])
async def test_a_node_without_room_is_left_alone_where_the_device_can_answer(
    cloud: Cloud, camera: Device, alone: bool
) -> None:
    health = camera.link.health
    assert cloud_is_usable(health, can_finish_alone=alone)
    for _ in range(2):
        await camera.ask(PLAN, PICTURE, QUESTION, 2)
    with pytest.raises(CapacityError):
        await camera.ask(PLAN, PICTURE, QUESTION, 2)
    assert cloud_is_usable(health, can_finish_alone=alone) is not alone
    assert not cloud_is_usable(None, can_finish_alone=alone)


@contextlib.asynccontextmanager
async def raw_sessions(cloud: Cloud, identity: Identity, count: int) -> AsyncIterator[list[CloudSession]]:
    async with open_channel(cloud.address, identity, Role.CLOUD) as channel:
        sessions = [
            await CloudSession.open(channel, "cloud node", cloud.compatibility, identity, []) for _ in range(count)
        ]
        yield sessions
        for session in sessions:
            await session.close()


def large(first: bytes) -> pb.DeviceFrame:
    return pb.DeviceFrame(begin=pb.Begin(plan="tokens/lossless", max_new_tokens=1, payload_bytes=8 << 20, first=first))


async def test_what_a_device_declares_takes_nothing_and_what_it_sends_takes_its_own_share(
    model: str, keys: Keys
) -> None:
    greedy, limits = keys.identity("greedy", Role.EDGE), CloudLimits(working_bytes=32 << 20)
    async with (
        cloud_node(model, keys, limits=limits) as cloud,
        device(model, cloud, keys.identity("e", Role.EDGE)) as camera,
        raw_sessions(cloud, greedy, 8) as sessions,
    ):
        admission = cloud.worker.runtime.admission
        for session in sessions:
            await session.stream.send(large(b"x" * 48))
        await until(lambda: admission.working_bytes == 8 * 48)
        assert (await camera.ask(PLAN, PICTURE, QUESTION, 2)).token_ids
        chunk = pb.DeviceFrame(chunk=bytes(64_000))
        reading = {asyncio.create_task(session.call.read()): session for session in sessions}
        for _ in range(120):
            for session in sessions[:3]:
                await session.stream.send(chunk)
        done, others = await asyncio.wait(reading, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        for answered in done:
            failure = reading[answered].stream.open(answered.result()).failure
            assert failure.code == "capacity"
            assert "greedy holds its share" in failure.sentence
        assert len(done) == 1, "the others have their room then"
        assert 0 < admission.working_bytes <= (32 << 20) // 2
        for waiting in others:
            waiting.cancel()
        assert (await camera.ask(PLAN, PICTURE, QUESTION, 2)).token_ids
    await until(lambda: admission.working_bytes == 0)


@pytest.mark.parametrize("trickles", [False, True], ids=["silent", "a byte now and then"])
async def test_an_upload_that_does_not_come_to_its_end_is_ended(model: str, keys: Keys, trickles: bool) -> None:
    async with cloud_node(model, keys, limits=CloudLimits(max_upload_s=1.0)) as cloud:
        async with raw_sessions(cloud, keys.identity("e", Role.EDGE), 1) as [session]:
            await session.stream.send(large(b"x" * 1_000))

            async def trickle() -> None:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    while trickles:
                        await session.stream.send(pb.DeviceFrame(chunk=b"x"))
                        await asyncio.sleep(0.01)

            trickling = asyncio.create_task(trickle())
            with pytest.raises(DeadlineExceeded, match="did not come in time"):
                await asyncio.wait_for(_until_the_end(session), 60)
            await trickling
            await until(lambda: cloud.worker.runtime.admission.working_bytes == 0)
            assert not cloud.servicer.active
        assert cloud.servicer.refused["deadline"] == 1


async def _until_the_end(session: CloudSession) -> None:
    try:
        while True:
            await session.read()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        raise await session.why_ended() from None


async def test_a_device_that_does_not_read_is_not_waited_for(model: str, keys: Keys) -> None:
    """Frames that nobody reads fill the stream's window; from then on each is waited for, but not for ever."""
    async with (
        cloud_node(model, keys, limits=CloudLimits(idle_session_s=1.0)) as cloud,
        raw_sessions(cloud, keys.identity("e", Role.EDGE), 1) as [session],
    ):
        wrong = pb.DeviceFrame(begin=pb.Begin(plan="x" * 30_000, max_new_tokens=1, first=b"x"))
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for _ in range(2_000):
                await asyncio.wait_for(session.stream.send(wrong), 60)
        await until(lambda: not cloud.servicer.active, 30)


async def test_others_answers_go_on_while_a_picture_is_opened(
    model: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, entered = threading.Event(), threading.Event()
    real = payloads.decode_picture

    def slow(data: bytes, **limits: int) -> Any:
        entered.set()
        go.wait(60)
        return real(data, **limits)

    async with (
        cloud_node(model, keys) as cloud,
        device(model, cloud, keys.identity("slow", Role.EDGE)) as slow_camera,
        device(model, cloud, keys.identity("e", Role.EDGE)) as camera,
    ):
        expected = (await camera.ask(PLAN, PICTURE, QUESTION, 8)).token_ids
        monkeypatch.setattr(payloads, "decode_picture", slow)
        waiting = asyncio.create_task(slow_camera.ask("image/jpeg75", PICTURE, QUESTION, 2))
        await until(entered.is_set)
        for _ in range(3):
            assert (await asyncio.wait_for(camera.ask(PLAN, PICTURE, QUESTION, 8), 60)).token_ids == expected
        assert not waiting.done()
        go.set()
        assert (await waiting).token_ids


@pytest.mark.parametrize(("side", "code"), [(1_400, "usage"), (1_000, "capacity")])
async def test_a_small_file_of_many_pixels_is_booked_before_it_is_opened(
    model: str, keys: Keys, monkeypatch: pytest.MonkeyPatch, side: int, code: str
) -> None:
    """The first never has room; of the others so many are opened as have room together."""
    store = io.BytesIO()
    Image.new("RGB", (side, side)).save(store, "WEBP", lossless=True)
    payload, opened, most = store.getvalue(), list[int](), 128 << 20
    assert len(payload) < 1_000
    real = payloads.decode_picture

    def counted(data: bytes, **limits: int) -> Any:
        opened.append(cloud.worker.runtime.admission.working_bytes)
        return real(data, **limits)

    monkeypatch.setattr(payloads, "decode_picture", counted)
    begin = pb.Begin(
        plan="image/lossless",
        max_new_tokens=1,
        first=payload,
        conversation=conversation_to_wire(Conversation.about(QUESTION)),
    )
    async with (
        cloud_node(model, keys, limits=CloudLimits(working_bytes=most)) as cloud,
        raw_sessions(cloud, keys.identity("greedy", Role.EDGE), 8) as sessions,
    ):
        for session in sessions:
            await session.stream.send(pb.DeviceFrame(begin=begin))
        ends = [await last_frame(session) for session in sessions]
        refused = [end.failure.code for end in ends if end.WhichOneof("body") == "failure"]
        assert set(refused) == {code}
        assert len(opened) == 8 - len(refused)
        assert (code == "usage") == (not opened)
        assert max(opened, default=0) <= most // 2
        await until(lambda: cloud.worker.runtime.admission.working_bytes == 0)


async def last_frame(session: CloudSession) -> pb.CloudFrame:
    while (frame := session.stream.open(await session.read())).WhichOneof("body") in ("receipt", "token"):
        pass
    return frame


@pytest.mark.parametrize("plan", ["vision:1/lossless", "tokens/lossless", "lm:1/lossless"])
async def test_features_are_booked_before_they_are_decoded(
    model: str, keys: Keys, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    async with (
        cloud_node(model, keys) as cloud,
        device(model, cloud, keys.identity("edge-1", Role.EDGE)) as camera,
    ):
        admission, codec, left_over = cloud.worker.runtime.admission, cloud.worker.runtime.codec, list[int]()
        decode = codec.decode

        def noted(cut: Cut, data: bytes, *limits: CodecLimits) -> Any:
            needed_bytes = len(data) + decoding_bytes(codec.outline(cut, data, *limits))
            left_over.append(admission.working_bytes - needed_bytes)
            return decode(cut, data, *limits)

        monkeypatch.setattr(codec, "decode", noted)
        assert (await camera.ask(plan, PICTURE, QUESTION, 1)).token_ids
    assert left_over
    assert min(left_over) >= 0
