"""Cloud nodes with good certificates that answer wrongly, or with malice: the answer is another node's, or the device's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from edge_node.answering.report import RequestReport
from edge_node.answering.side import Side
from edge_node.cloud.link import CloudLink
from edge_node.local.messages import report_to_wire
from splitvlm.crypto.identity import Role
from splitvlm.errors import SplitvlmError, UsageError
from splitvlm.model.loading import read_spec
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from splitvlm.rpc.limits import MOST_RETRY_AFTER_S, MOST_TEXT_LENGTH
from splitvlm.wire.v1 import data_pb2 as pb
from tests.nodes import Cloud, Device, Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model

QUESTION = "Describe the picture."
TOKENS = 12
PLANS = ("image/lossless", "tokens/lossless", "lm:1/lossless")
Change = Callable[[pb.CloudFrame], list[pb.CloudFrame]]


def make_faulty(cloud: Cloud, change: Change) -> None:
    """The node's sessions stay as they are, handshake and keys too; what they send is changed before it is sealed."""
    shake_hands = cloud.worker._open

    async def faulty(*arguments: Any) -> Any:
        stream, *known = await shake_hands(*arguments)
        send = stream.send

        async def send_changed(frame: pb.CloudFrame) -> None:
            for changed in change(frame):
                await send(changed)

        stream.send = send_changed  # type: ignore[method-assign]
        return stream, *known

    cloud.worker._open = faulty  # type: ignore[method-assign]


class Fleet:
    """Two cloud nodes and a device that has a link to each."""

    def __init__(self, clouds: list[Cloud], camera: Device, second: CloudLink) -> None:
        self.clouds = clouds
        self.camera = camera
        self.links = [camera.link, second]

    async def ask(self, plan: str, *, standby: bool, alone: bool, names: tuple[bytes, ...] = ()) -> RequestReport:
        return await self.camera.ask(
            plan,
            PICTURE,
            QUESTION,
            TOKENS,
            prefix_names=names,
            standby=self.links[1:] if standby else [],
            finish_alone=alone,
            silence_timeout_s=30.0,
        )


@pytest.fixture(scope="module")
def model() -> str:
    return tiny_model("scenes-like")


@pytest.fixture(scope="module")
def expected(model: str) -> list[int]:
    tokens = reference_tokens(model, [Prompt.about(PICTURE, QUESTION)], TOKENS)[0]
    assert len(tokens) == TOKENS, "an answer that ends by itself is never too long"
    return tokens


@pytest.fixture
async def fleet(model: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    keys = Keys(tmp_path / "keys")
    async with contextlib.AsyncExitStack() as stack:
        clouds = [await stack.enter_async_context(cloud_node(model, keys, name=f"cloud-{n}")) for n in (1, 2)]
        identity = keys.identity("edge-1", Role.EDGE)
        camera = await stack.enter_async_context(device(model, clouds[0], identity))
        second = CloudLink(clouds[1].address, clouds[1].compatibility, identity, [])
        stack.push_async_callback(second.close)
        yield Fleet(clouds, camera, second)


def token(token_id: int) -> pb.CloudFrame:
    return pb.CloudFrame(token=pb.Token(id=token_id))


def at(kind: str, *instead: pb.CloudFrame) -> Change:
    return lambda frame: list(instead) if frame.WhichOneof("body") == kind else [frame]


def receipt(change: Callable[[pb.Receipt], None]) -> Change:
    def changed(frame: pb.CloudFrame) -> list[pb.CloudFrame]:
        if frame.HasField("receipt"):
            change(frame.receipt)
        return [frame]

    return changed


def end(**values: Any) -> Change:
    def changed(frame: pb.CloudFrame) -> list[pb.CloudFrame]:
        if frame.HasField("end"):
            frame.end.MergeFrom(pb.End(**values))
        return [frame]

    return changed


def after_three(*instead: pb.CloudFrame) -> Change:
    """From the fourth token on."""
    seen = 0

    def changed(frame: pb.CloudFrame) -> list[pb.CloudFrame]:
        nonlocal seen
        seen += frame.HasField("token")
        if seen <= 3:
            return [frame]
        return list(instead) if seen == 4 and frame.HasField("token") else []

    return changed


def fails(code: str, **more: Any) -> pb.CloudFrame:
    return pb.CloudFrame(failure=pb.Failure(code=code, sentence="No.", **more))


MOST_U32 = 2**32 - 1
FAULTS: dict[str, tuple[str, Callable[[], Change]]] = {
    "endless tokens": ("protocol", lambda: at("end", *[token(5)] * 500)),
    "one token too many": ("protocol", lambda: lambda frame: [token(5), frame] if frame.HasField("end") else [frame]),
    "a token beyond the vocabulary": ("protocol", lambda: after_three(token(MOST_U32))),
    "the vocabulary's size as a token": (
        "protocol",
        lambda: after_three(token(read_spec(tiny_model("scenes-like")).vocab_size)),
    ),
    "no token at all": ("protocol", lambda: at("token")),
    "an end at once": ("protocol", lambda: at("token", pb.CloudFrame(end=pb.End(reason=pb.End.REASON_EOS)))),
    "an end too soon, by the model": (
        "protocol",
        lambda: after_three(pb.CloudFrame(end=pb.End(reason=pb.End.REASON_EOS))),
    ),
    "an end too soon, by length": (
        "protocol",
        lambda: after_three(pb.CloudFrame(end=pb.End(reason=pb.End.REASON_LENGTH))),
    ),
    "an end without a reason": ("protocol", lambda: at("end", pb.CloudFrame(end=pb.End()))),
    "an end that nobody asked for": ("protocol", lambda: end(reason=pb.End.REASON_CANCELLED)),
    "a prefix cached unasked": ("protocol", lambda: end(prefix_stored=True)),
    "a prefill of five hours": ("protocol", lambda: end(prefill_us=2 * 10**10)),
    "times that overflow": ("protocol", lambda: end(decode_us=2**64 - 1, queue_us=2**64 - 1)),
    "a receipt of too few bytes": ("protocol", lambda: receipt(lambda r: setattr(r, "bytes", r.bytes - 1))),
    "a receipt of too many bytes": ("protocol", lambda: receipt(lambda r: setattr(r, "bytes", 2**64 - 1))),
    "a receipt of an hour": ("protocol", lambda: receipt(lambda r: setattr(r, "span_us", 3_600_000_000))),
    "two receipts": ("protocol", lambda: lambda frame: [frame, frame] if frame.HasField("receipt") else [frame]),
    "a usage failure": ("usage", lambda: at("token", fails("usage"))),
    "a usage failure in mid-answer": ("usage", lambda: after_three(fails("usage"))),
    "a configuration failure": ("config", lambda: at("receipt", fails("config"))),
    "a cancellation": ("cancelled", lambda: after_three(fails("cancelled"))),
    "a prefix evicted whose picture came along": ("protocol", lambda: at("token", fails("prefix-evicted"))),
    "an unknown failure": ("internal", lambda: at("token", fails("\x1b[31mnonsense"))),
    "no room for 49 days": ("capacity", lambda: at("token", fails("capacity", retry_after_ms=MOST_U32))),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_another_node_gives_the_exact_answer(fleet: Fleet, expected: list[int], fault: str) -> None:
    code, change = FAULTS[fault]
    make_faulty(fleet.clouds[0], change())
    report = await fleet.ask("tokens/lossless", standby=True, alone=False)
    assert report.token_ids == expected
    assert [(one.code, one.node) for one in report.faults] == [(code, fleet.clouds[0].address)]
    assert report.faults[0].sentence.endswith(".")
    assert "this call" not in report.faults[0].sentence, "the node failed before it could be wrong"
    told = report_to_wire(report)
    all_there = report.faults[0].tokens == len(expected)  # then nobody had anything to add
    assert told.answered_node == fleet.clouds[0 if all_there else 1].address
    assert told.faults[0].sentence == report.faults[0].sentence


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("fault", ["endless tokens", "a token beyond the vocabulary", "a usage failure"])
async def test_the_device_gives_the_exact_answer(fleet: Fleet, expected: list[int], fault: str, plan: str) -> None:
    code, change = FAULTS[fault]
    make_faulty(fleet.clouds[0], change())
    report = await fleet.ask(plan, standby=False, alone=True)
    assert report.token_ids == expected
    assert [one.code for one in report.faults] == [code]
    if fault != "endless tokens":  # there all tokens were right, and nobody had anything to add
        assert report.answered_by is Side.DEVICE


async def test_a_node_that_says_full_is_left_alone_for_a_minute_at_most(fleet: Fleet) -> None:
    make_faulty(fleet.clouds[0], FAULTS["no room for 49 days"][1]())
    await fleet.ask("tokens/lossless", standby=True, alone=False)
    assert not fleet.links[0].health.has_room
    assert fleet.links[0].health.full_until_s <= time.monotonic() + MOST_RETRY_AFTER_S


async def test_only_where_all_say_so_a_usage_failure_is_the_callers(fleet: Fleet, expected: list[int]) -> None:
    for cloud in fleet.clouds:
        make_faulty(cloud, FAULTS["a usage failure"][1]())
    with pytest.raises(UsageError, match="No"):
        await fleet.ask("tokens/lossless", standby=True, alone=False)
    report = await fleet.ask("tokens/lossless", standby=True, alone=True)
    assert report.token_ids == expected


async def test_what_a_node_writes_is_short_and_cannot_steer_a_terminal(fleet: Fleet) -> None:
    long = "\x1b]0;owned\x07 \u202e" + 50_000 * "x"
    failed = pb.CloudFrame(failure=pb.Failure(code="usage", sentence=long, advice="\r\n\x00" + long[:9_000]))
    make_faulty(fleet.clouds[0], at("token", failed))
    with pytest.raises(SplitvlmError) as caught:
        await fleet.ask("tokens/lossless", standby=False, alone=False)
    for text in (caught.value.sentence, caught.value.advice):
        assert text.isprintable()
        assert 100 < len(text) <= MOST_TEXT_LENGTH


async def test_nodes_in_order_cache_prefixes_when_asked(fleet: Fleet, expected: list[int]) -> None:
    names = fleet.links[0].prefixes.names_of([PICTURE])
    for again in (False, True):
        report = await fleet.ask("tokens/lossless", standby=False, alone=False, names=names)
        assert (report.token_ids, report.prefix_cached, report.faults) == (expected, again, [])
