"""What the answerer decides, with plain values: no port, no cloud node, no model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from edge_node.answering.answerer import Answerer, cloud_is_usable
from edge_node.answering.events import Answered, AnswerEvent, AnswerText, PlanChosen
from edge_node.answering.question import Question
from edge_node.answering.side import Side
from edge_node.audit import AuditLog
from edge_node.cloud.cloud_request import Vocabulary
from edge_node.cloud.fleet import CloudFleet, Dialling
from edge_node.cloud.node_health import NodeHealth
from edge_node.engine import DeviceEngine
from edge_node.planner import Planner
from edge_node.privacy import EVERYTHING_MAY_LEAVE
from edge_node.runtime import Runtime
from edge_node.settings import EdgeSettings
from splitvlm.domain import Conversation, Plan
from splitvlm.errors import CapacityError, DeadlineExceeded, PeerUnavailable, SplitvlmError, UsageError
from splitvlm.model.pictures import inspect_picture
from splitvlm.planning.policy import Choice
from splitvlm.wire.v1 import data_pb2
from tests.picture_files import saved
from tests.unit.edge_node.test_run import FakeTokens

PICTURE = saved(Image.new("RGB", (30, 20)), "PNG")
WORDS = {5: "two", 6: "cells"}


class Words:
    """A tokenizer of transformers' kind whose tokens are words."""

    backend_tokenizer = Tokenizer(WordLevel({word: token_id for token_id, word in WORDS.items()}, unk_token="two"))


class Spec:
    max_context = 100


class Part:
    spec = Spec()
    model = None
    tokenizer = Words()

    def preparation_bytes(self, _width: int, _height: int) -> int:
        return 1_000


@dataclass
class FakeEngine:
    """A device that answers with two words, or fails."""

    error: SplitvlmError | None = None
    slowdown: float = 1.0
    part: Part = field(default_factory=Part)
    vocabulary: Vocabulary = field(default_factory=lambda: Vocabulary(100, frozenset({6})))
    endings: list[Callable[[], None]] = field(default_factory=list)

    async def aside(self, job: Callable[..., Any], *arguments: Any) -> Any:
        return job(*arguments)

    async def start(self, *_: Any) -> tuple[FakeTokens, float]:
        if self.error is not None:
            raise self.error
        return FakeTokens(WORDS), 0.5

    async def next(self, tokens: FakeTokens) -> tuple[int | None, float]:
        return next(tokens, None), 0.1

    def once_running_jobs_end(self, then: Callable[[], None]) -> None:
        self.endings.append(then)


@dataclass
class FixedPlanner:
    """A planner that always chooses the device, and lists what it was asked."""

    can_finish_alone: bool = True
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def choose(self, *asked: Any) -> Choice:
        self.asked.append(asked)
        return Choice(Plan.parse("device"), 1.0, 2.0, "it is a test")


@dataclass
class Node:
    engine: FakeEngine
    planner: FixedPlanner
    runtime: Runtime
    answerer: Answerer
    audit: Path

    async def ask(self, **changes: Any) -> list[AnswerEvent]:
        question = Question(**{"conversation": Conversation.about("How many?"), "images": (PICTURE,)} | changes)
        return [event async for event in self.answerer.answer(question)]

    @property
    def booked(self) -> tuple[int, int]:
        return self.answerer.admission.questions, self.answerer.admission.working_bytes

    def jobs_end(self) -> None:
        for ending in self.engine.endings:
            ending()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    engine, planner, audit = FakeEngine(), FixedPlanner(), tmp_path / "audit.jsonl"
    clouds = CloudFleet(Dialling(data_pb2.Compatibility(), None, []), EVERYTHING_MAY_LEAVE)
    runtime = Runtime(EdgeSettings(), cast(DeviceEngine, engine), EVERYTHING_MAY_LEAVE, clouds)
    answerer = Answerer(runtime, cast(Planner, planner), AuditLog(audit, 4_096))
    return Node(engine, planner, runtime, answerer, audit)


async def test_an_answer_is_its_plan_its_text_and_its_report(node: Node) -> None:
    chosen, *texts, answered = await node.ask(plan="device", max_new_tokens=7)
    assert isinstance(chosen, PlanChosen)
    assert (chosen.choice.reason, chosen.link) == ("it is a test", None)
    assert "".join(event.text for event in texts if isinstance(event, AnswerText)) == "two cells"
    assert isinstance(answered, Answered)
    assert (answered.report.token_ids, answered.report.answered_by) == ([5, 6], Side.DEVICE)
    assert node.planner.asked == [("device", None, False, None)]
    assert node.runtime.take_counts() == {"device/none": 1}


async def test_a_stop_string_ends_the_answer_and_is_not_shown(node: Node) -> None:
    _, *texts, answered = await node.ask(stop=(" ce",))
    assert [event.text for event in texts if isinstance(event, AnswerText)] == ["two"]
    assert isinstance(answered, Answered)
    assert (answered.report.token_ids, answered.report.finish_reason) == ([5, 6], "stop")
    assert answered.report.total_s > 0
    [line] = node.audit.read_text().splitlines()
    assert json.loads(line)["outcome"] == "answered"


async def test_the_audit_log_has_a_line_however_an_answer_ends(node: Node) -> None:
    await node.ask()
    node.engine.error = DeadlineExceeded("no memory")
    with pytest.raises(DeadlineExceeded):
        await node.ask()
    node.engine.error = None
    events = node.answerer.answer(Question(Conversation.about("How many?"), (PICTURE,)))
    while not isinstance(await anext(events), AnswerText):
        pass
    await events.aclose()
    lines = [json.loads(line) for line in node.audit.read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["answered", "unfinished", "unfinished"]
    assert node.runtime.take_counts() == {"device/none": 1}, "only what was answered counts"


async def test_what_is_booked_is_free_when_the_last_job_has_ended(node: Node) -> None:
    events = node.answerer.answer(Question(Conversation.about("How many?"), (PICTURE,)))
    await anext(events)
    assert node.booked == (1, inspect_picture(PICTURE).decoded_bytes)
    await events.aclose()
    assert node.booked[0] == 1, "a job may run still"
    node.jobs_end()
    assert node.booked == (0, 0)


async def test_a_question_too_many_is_refused_and_books_nothing(node: Node) -> None:
    limits = node.runtime.settings.limits.model_copy(update={"questions": 1})
    node.runtime.settings = node.runtime.settings.model_copy(update={"limits": limits})
    events = node.answerer.answer(Question(Conversation.about("How many?"), (PICTURE,)))
    await anext(events)
    with pytest.raises(CapacityError, match="1 questions, which is its limit") as refused:
        await node.ask()
    assert refused.value.retry_after_s > 0
    await events.aclose()
    node.jobs_end()
    assert node.booked == (0, 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": ()}, "shows 1 images, but 0 came"),
        ({"stop": ("a",) * 17}, "17 stop strings, but 16"),
        ({"stop": ("",)}, "stop string has from 1"),
        ({"max_new_tokens": 100}, "at most 99"),
        ({"max_new_tokens": 2**32 - 1}, "at most 99"),
    ],
)
async def test_what_cannot_be_answered_is_refused_before_anything_is_booked(
    node: Node, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        await node.ask(**changes)
    assert (node.booked, node.engine.endings, node.planner.asked) == ((0, 0), [], [])


async def test_a_picture_that_is_none_leaves_nothing_booked(node: Node) -> None:
    with pytest.raises(UsageError):
        await node.ask(images=(b"nonsense",))
    node.jobs_end()
    assert (node.booked, node.planner.asked) == ((0, 0), [])


async def test_a_caller_that_is_cancelled_is_unfinished(node: Node) -> None:
    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    node.engine.start = never  # type: ignore[method-assign]
    asking = asyncio.create_task(node.ask())
    while not node.planner.asked:  # noqa: ASYNC110  another task comes to it
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    [line] = node.audit.read_text().splitlines()
    assert json.loads(line)["outcome"] == "unfinished"
    node.jobs_end()
    assert node.booked == (0, 0)


def test_a_cloud_node_is_usable_while_it_answers_and_has_room_or_nobody_else_can() -> None:
    health = NodeHealth()
    assert cloud_is_usable(health, can_finish_alone=True)
    health.on_request_error(CapacityError("full", retry_after_s=60.0))
    assert not cloud_is_usable(health, can_finish_alone=True)
    assert cloud_is_usable(health, can_finish_alone=False)
    health.on_request_error(PeerUnavailable("gone"))
    assert not cloud_is_usable(health, can_finish_alone=False)
    assert not cloud_is_usable(None, can_finish_alone=False)
