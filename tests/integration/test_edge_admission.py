"""What applications may take of an edge node: questions, memory, tokens; and its port answers while pictures are opened."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edge_node.answering.answerer import OPENED_BYTES, Answerer
from edge_node.cloud.fleet import CloudFleet, Dialling
from edge_node.engine import DeviceEngine
from edge_node.local.servicer import LocalServicer
from edge_node.node import SERVICE, compatibility_of
from edge_node.planner import Planner
from edge_node.privacy import EVERYTHING_MAY_LEAVE
from edge_node.runtime import Runtime
from edge_node.settings import EdgeLimits, EdgeSettings
from splitvlm.bundle import open_bundle
from splitvlm.crypto.identity import Role
from splitvlm.domain import DEVICE, Conversation
from splitvlm.errors import CapacityError, UsageError
from splitvlm.model.loading import load_device, read_spec
from splitvlm.model.pictures import inspect_picture, read_picture
from splitvlm.model.prompt import Prompt
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import local_pb2 as pb
from splitvlm.wire.v1 import local_pb2_grpc
from tests.nodes import Keys, until
from tests.picture_files import saved
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"
SMALL = saved(PICTURE, "PNG")


@dataclass
class Edge:
    client: EdgeClient
    answerer: Answerer
    runtime: Runtime

    async def ask(self, data: bytes = SMALL, **more: Any) -> pb.RequestReport:
        report = pb.RequestReport()
        async for answer in self.client.ask(Conversation.about(QUESTION), [data], **{"max_new_tokens": 2} | more):
            report = answer.report if answer.HasField("report") else report
        return report

    def use(self, **limits: int) -> None:
        self.runtime.settings = self.runtime.settings.model_copy(update={"limits": EdgeLimits(**limits)})

    @property
    def held(self) -> tuple[int, int]:
        return self.answerer.admission.questions, self.answerer.admission.working_bytes


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    model, keys = tiny_model("scenes-like"), Keys(tmp_path / "keys")
    settings, identity = EdgeSettings(), keys.identity("edge-1", Role.EDGE)
    part, codec = load_device(model, [DEVICE]), open_bundle(model).codec
    compatibility = compatibility_of(read_spec(model), codec, "float32")
    clouds = CloudFleet(Dialling(compatibility, identity, []), EVERYTHING_MAY_LEAVE)
    runtime = Runtime(settings, DeviceEngine(part, codec), EVERYTHING_MAY_LEAVE, clouds)
    planner = Planner(settings.planning, (DEVICE,), codec, EVERYTHING_MAY_LEAVE)
    answerer = Answerer(runtime, planner, None)
    servicer = LocalServicer(answerer, runtime, planner, plaintext=False)
    server = NodeServer(identity, [SERVICE], 2**22)
    local_pb2_grpc.add_LocalServicer_to_server(servicer, server.grpc)
    client = EdgeClient(await server.listen("127.0.0.1:0"), keys.identity("app", Role.APP))
    yield Edge(client, answerer, runtime)
    await client.close()
    await server.drain(1.0)
    await runtime.close()


@dataclass
class RevocationInterceptor:
    """Holds up the thread that opens pictures, as a picture does that takes long."""

    entered: threading.Event = field(default_factory=threading.Event)
    open: threading.Event = field(default_factory=threading.Event)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 30)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[RevocationInterceptor]:
    gate = RevocationInterceptor()

    def slowly(data: bytes, _name: str) -> Image.Image:
        gate.entered.set()
        assert gate.open.wait(60)
        return read_picture(data)

    monkeypatch.setattr("edge_node.answering.answerer.read_picture", slowly)
    yield gate
    gate.open.set()


async def test_status_answers_while_a_picture_is_opened(edge: Edge, gate: RevocationInterceptor) -> None:
    asking = asyncio.create_task(edge.ask())
    await gate.reached()
    for _ in range(3):
        assert (await edge.client.status()).model == "scenes"
    assert not asking.done()
    gate.open.set()
    assert (await asking).answered_by == "device"
    await until(lambda: edge.held == (0, 0))


async def test_one_question_too_many_is_told_when_to_come_back(edge: Edge, gate: RevocationInterceptor) -> None:
    edge.use(questions=1)
    asking = asyncio.create_task(edge.ask())
    await gate.reached()
    with pytest.raises(CapacityError, match="1 questions, which is its limit") as caught:
        await edge.ask()
    assert caught.value.retry_after_s > 0
    gate.open.set()
    await asking
    await until(lambda: edge.held == (0, 0))
    assert (await edge.ask()).tokens == 2


async def test_pictures_that_do_not_fit_together_are_not_opened_together(
    edge: Edge, gate: RevocationInterceptor
) -> None:
    picture = saved(Image.new("L", (1000, 1000)), "PNG")
    edge.use(working_bytes=inspect_picture(picture).decoded_bytes * 3 // 2)
    asking = asyncio.create_task(edge.ask(picture))
    await gate.reached()
    for _ in range(3):
        with pytest.raises(CapacityError, match="memory for questions is full"):
            await edge.ask(picture)
    gate.open.set()
    await asking
    await until(lambda: edge.held == (0, 0))
    assert (await edge.ask(picture)).tokens == 2


async def test_a_picture_that_never_fits_is_refused_before_a_pixel_is_decoded(
    edge: Edge, gate: RevocationInterceptor
) -> None:
    edge.use(working_bytes=2**24)
    for kind in ("PNG", "JPEG", "BMP"):
        with pytest.raises(UsageError, match=r"not taken; at most 16777216 are.*limits\.working_bytes"):
            await edge.ask(saved(Image.new("L", (1200, 1200)), kind))
    assert not gate.entered.is_set()
    await until(lambda: edge.held == (0, 0))


async def test_what_a_caller_that_went_away_left_in_a_thread_stays_booked(
    edge: Edge, gate: RevocationInterceptor
) -> None:
    asking = asyncio.create_task(edge.ask())
    await gate.reached()
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await until(lambda: bool(edge.runtime.engine._endings))
    questions, num_bytes = edge.held
    assert (questions, num_bytes > 0) == (1, True)
    gate.open.set()
    await until(lambda: edge.held == (0, 0))


async def test_keys_and_values_are_booked_before_the_language_model_reads_the_prompt(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, admission = edge.runtime.engine.part, edge.answerer.admission
    header = inspect_picture(SMALL)
    prepared_bytes = part.preparation_bytes(header.width, header.height) + OPENED_BYTES * header.width * header.height
    picture_bytes = max(header.decoded_bytes, prepared_bytes)
    num_prompt_tokens = part.inputs(Prompt.about(PICTURE, QUESTION))["input_ids"].shape[1]
    taken, take = list[int](), admission._take

    def noted(num_bytes: int, held_bytes: int) -> None:
        taken.append(num_bytes)
        take(num_bytes, held_bytes)

    monkeypatch.setattr(admission, "_take", noted)
    await edge.ask()
    assert taken == [picture_bytes, part.cache_bytes(num_prompt_tokens + 2)]
    await until(lambda: edge.held == (0, 0))
    other = admission.begin()
    other.take(EdgeLimits().working_bytes - picture_bytes - 1)
    with pytest.raises(CapacityError, match="memory for questions is full") as refused:
        await edge.ask()
    assert refused.value.retry_after_s > 0
    other.release()
    assert (await edge.ask()).tokens == 2
    await until(lambda: edge.held == (0, 0))


async def test_a_refused_picture_leaves_nothing_booked(edge: Edge) -> None:
    for data in (b"nonsense", SMALL[:200], b""):
        with pytest.raises(UsageError):
            await edge.ask(data)
    await until(lambda: edge.held == (0, 0))


@pytest.mark.parametrize("asked", [513, 10_000, 2**32 - 1])
async def test_an_application_gets_no_longer_answers_than_the_limit(edge: Edge, asked: int) -> None:
    with pytest.raises(UsageError, match=rf"max_new_tokens is {asked}, .* at most \d+.*limits\.max_new_tokens"):
        await edge.ask(max_new_tokens=asked)


async def test_the_limit_of_tokens_is_the_settings_and_the_model_s(edge: Edge) -> None:
    edge.use(max_new_tokens=3)
    assert (await edge.ask(max_new_tokens=3)).tokens == 3
    with pytest.raises(UsageError, match="at most 3"):
        await edge.ask(max_new_tokens=4)
    edge.use(max_new_tokens=4096)
    context_tokens = edge.runtime.engine.part.spec.max_context
    with pytest.raises(UsageError, match=f"at most {min(4096, context_tokens - 1)}"):
        await edge.ask(max_new_tokens=max(4097, context_tokens))


async def test_a_job_that_nothing_can_cut_short_does_not_hold_up_the_end(
    edge: Edge, gate: RevocationInterceptor
) -> None:
    asking = asyncio.create_task(edge.ask())
    await gate.reached()
    asking.cancel()
    assert edge.runtime.engine.close() is False
    gate.open.set()
