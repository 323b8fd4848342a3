"""A picture in tiles goes tile by tile: what is made is sent and decoded while the tower runs the next one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloud_node.settings import CloudLimits
from edge_node.answering.side import Side
from edge_node.cloud.cloud_request import AnswerSpec, CloudRequest
from edge_node.cloud.exchange import Exchange
from edge_node.cloud.link import CloudLink
from edge_node.cloud.link_meter import FRAMING_BYTES
from edge_node.cloud.payload import Payload
from edge_node.cloud.segments import Segments
from splitvlm.crypto.identity import Identity, Role
from splitvlm.domain import Conversation, Plan
from splitvlm.errors import ProtocolError, SplitvlmError, UsageError
from splitvlm.link.estimator import LinkEstimator
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from tests.nodes import Cloud, Device, Keys, cloud_node, device, until
from tests.samples import PICTURE, tiny_model

QUESTION = "Describe the picture."
TOKENS = 8
PLANS = ("vision:1/lossless", "tokens/lossless")


@pytest.fixture(scope="module")
def model() -> str:
    return tiny_model("idefics3")


@pytest.fixture(scope="module")
def expected(model: str) -> list[int]:
    return reference_tokens(model, [Prompt.about(PICTURE, QUESTION)], TOKENS)[0]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def identity(keys: Keys) -> Identity:
    return keys.identity("edge-1", Role.EDGE)


@pytest.fixture
async def clouds(model: str, keys: Keys) -> AsyncIterator[list[Cloud]]:
    async with contextlib.AsyncExitStack() as stack:
        limits = CloudLimits(max_payload_bytes=200_000)
        yield [
            await stack.enter_async_context(cloud_node(model, keys, name=f"cloud-{number}", limits=limits))
            for number in (1, 2)
        ]


@pytest.fixture
async def camera(model: str, clouds: list[Cloud], identity: Identity) -> AsyncIterator[Device]:
    async with device(model, clouds[0], identity) as node:
        yield node


async def answered(camera: Device, payload: Payload, tokens: int, exchange: Exchange) -> list[int]:
    """The tokens for a payload that is made by the test."""
    request = CloudRequest(payload, AnswerSpec(tokens, camera.engine.vocabulary))
    return [token async for token in camera.link.answer(request, exchange)]


def decoded_by(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what the cloud node has decoded, as they come."""
    codec, sizes = cloud.worker.runtime.codec, list[int]()
    real = codec.decode

    def counted(cut: Any, data: bytes, *limits: Any) -> Any:
        sizes.append(len(data))
        return real(cut, data, *limits)

    monkeypatch.setattr(codec, "decode", counted)
    return sizes


@pytest.mark.parametrize("plan", PLANS)
async def test_a_tile_is_decoded_before_the_tower_has_run_the_last(
    camera: Device, clouds: list[Cloud], expected: list[int], plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, real = decoded_by(clouds[0], monkeypatch), camera.engine.tile
    places = []

    async def after_those_before(run: Any, place: int) -> Any:
        await until(lambda: len(decoded) == place)
        places.append(place)
        return await real(run, place)

    monkeypatch.setattr(camera.engine, "tile", after_those_before)
    report = await camera.ask(plan, PICTURE, QUESTION, TOKENS)
    assert report.token_ids == expected
    assert places == list(range(len(decoded)))
    assert len(decoded) > 2
    assert report.device_s > 0
    assert report.encode_s > 0


async def test_the_link_is_measured_by_the_last_part_where_it_waited_for_the_device(
    camera: Device, clouds: list[Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses in which the tower ran are no time of the link."""
    seen, decoded = [], decoded_by(clouds[0], monkeypatch)
    monkeypatch.setattr(LinkEstimator, "on_transfer", lambda _, *given, **__: seen.append(given))
    plan, receipts = Plan.parse("tokens/lossless"), asyncio.Event()
    run, _ = await camera.engine.begin(Prompt.about(PICTURE, QUESTION), plan)
    exchange = Exchange()

    async def make(place: int) -> bytes:
        if place:
            await until(lambda: len(decoded) == place and not exchange.upload.segments_under_way)
            assert exchange.upload.began_s is None, "nothing is on its way"
            receipts.set()
        data, _ = await camera.engine.encode((await camera.engine.tile(run, place))[0], plan)
        return data

    assert await answered(camera, Payload(plan, Segments(run.num_tiles, make)), TOKENS, exchange)
    receipt = exchange.upload.receipt
    assert receipt is not None
    num_bytes, span_s, elapsed_s, *_ = seen[-1]  # the session's set-up was measured before
    assert receipts.is_set()
    assert num_bytes == receipt.num_bytes + FRAMING_BYTES
    assert receipt.num_bytes < exchange.bytes_sent / 2
    assert span_s is None
    assert elapsed_s == exchange.upload.elapsed_s


@pytest.mark.parametrize("plan", PLANS)
async def test_another_node_takes_over_between_two_tiles(
    camera: Device,
    clouds: list[Cloud],
    identity: Identity,
    expected: list[int],
    plan: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second, real = CloudLink(clouds[1].address, clouds[1].compatibility, identity, []), camera.engine.tile
    ran = []

    async def tile(run: Any, place: int) -> Any:
        if place == 1 and 1 not in ran:
            await camera.link.sessions.channel.close()
        ran.append(place)
        return await real(run, place)

    monkeypatch.setattr(camera.engine, "tile", tile)
    report = await camera.ask(plan, PICTURE, QUESTION, TOKENS, standby=[second], silence_timeout_s=60.0)
    await second.close()
    assert report.token_ids == expected
    assert [fault.node for fault in report.faults] == [clouds[0].address]
    assert ran.count(0) == 1, "what was made before goes once more, as it is"


async def test_a_hedge_goes_on_from_the_tiles_that_were_run(
    camera: Device, clouds: list[Cloud], expected: list[int]
) -> None:
    run = camera.run("tokens/lossless", Prompt.about(PICTURE, QUESTION), TOKENS, hedge_after_s=0.0)
    clouds[0].engine_lane.run = _never  # type: ignore[method-assign]  # a process that hangs
    report = await camera.finish(run)
    assert report.token_ids == expected
    assert report.answered_by is Side.DEVICE


async def _never(*_: Any) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("plan", PLANS)
async def test_another_question_about_a_picture_in_tiles(camera: Device, model: str, plan: str) -> None:
    other = "How many?"
    first = await camera.ask(plan, PICTURE, QUESTION, TOKENS, prefix_cache=True)
    again = await camera.ask(plan, PICTURE, other, TOKENS, prefix_cache=True)
    assert [first.prefix_cached, again.prefix_cached] == [False, True]
    assert again.token_ids == reference_tokens(model, [Prompt.about(PICTURE, other)], TOKENS)[0]


BAD = [
    ("lm:1/lossless", 2, 10, UsageError, "not taken in 2 segments"),
    ("image/lossless", 2, 10, UsageError, "shows 1 images, but others came"),
    ("tokens/lossless", 65, 10, UsageError, "at most 64"),
    ("tokens/lossless", 2, 200_001, UsageError, "limit is 200000"),
    ("tokens/lossless", 2, 10, ProtocolError, "malformed"),
    ("vision:1/lossless", 2, 50_000, ProtocolError, "malformed"),
]


@pytest.mark.parametrize(("plan", "count", "size", "error", "says"), BAD)
async def test_bad_parts_are_refused_and_nothing_of_them_is_kept(
    camera: Device, clouds: list[Cloud], plan: str, count: int, size: int, error: type[SplitvlmError], says: str
) -> None:
    async def make(_: int) -> bytes:
        return b"\x07" * size

    exchange = Exchange()
    conversation = Conversation.about(QUESTION) if plan.startswith("image") else None
    payload = Payload(Plan.parse(plan), Segments(count, make), conversation)
    with pytest.raises(error) as caught:
        await answered(camera, payload, 4, exchange)
    assert says in f"{caught.value.sentence} {caught.value.advice}"
    await until(lambda: clouds[0].servicer.active.total() == 0)
    assert clouds[0].worker.runtime.admission.working_bytes == 0
    assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids


async def test_the_limit_is_of_all_parts_together(camera: Device, clouds: list[Cloud]) -> None:
    plan = Plan.parse("tokens/lossless")
    run, _ = await camera.engine.begin(Prompt.about(PICTURE, QUESTION), plan)
    first, _ = await camera.engine.encode((await camera.engine.tile(run, 0))[0], plan)

    async def make(place: int) -> bytes:
        return bytes(200_000) if place else first

    with pytest.raises(UsageError, match=f"payload of {200_000 + len(first)} bytes is not taken"):
        await answered(camera, Payload(plan, Segments(2, make)), 4, Exchange())
    await until(lambda: clouds[0].worker.runtime.admission.working_bytes == 0)


async def test_tiles_that_do_not_fit_one_another_are_refused(camera: Device, clouds: list[Cloud]) -> None:
    plan = Plan.parse("tokens/lossless")
    run, _ = await camera.engine.begin(Prompt.about(PICTURE, QUESTION), plan)

    async def the_first_again(_: int) -> bytes:
        return (await camera.engine.encode((await camera.engine.tile(run, 0))[0], plan))[0]

    with pytest.raises(ProtocolError, match="do not fit"):
        await answered(camera, Payload(plan, Segments(2, the_first_again)), 4, Exchange())


async def test_a_part_is_made_once_and_again_where_it_was_cancelled() -> None:
    asked, go = [], asyncio.Event()

    async def make(place: int) -> bytes:
        asked.append(place)
        await go.wait()
        return bytes((place,))

    parts = Segments(2, make)
    waiting = asyncio.ensure_future(parts.segment(1))
    await until(lambda: asked == [0])
    waiting.cancel()
    go.set()
    assert await asyncio.gather(parts.segment(1), parts.segment(0), parts.segment(1)) == [b"\1", b"\0", b"\1"]
    assert asked == [0, 0, 1]
    assert parts.complete
