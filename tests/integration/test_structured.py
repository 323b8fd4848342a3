"""Structured answers and log-probabilities between real nodes: of one that goes away, and of one that lies, too."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_node.answering.report import RequestReport
from edge_node.answering.side import Side
from edge_node.cloud.link import CloudLink
from splitvlm.crypto.identity import Role
from splitvlm.domain import Choices, ChosenToken, JsonSchema, Sampling
from splitvlm.errors import UsageError
from splitvlm.grammar.choices import ChoiceGrammar
from splitvlm.wire.v1 import data_pb2 as pb
from tests.integration.test_faulty_clouds import Fleet, make_faulty
from tests.nodes import Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model

QUESTION = "Describe the picture."
TOKENS = 64
ALARM: dict[str, Any] = {
    "type": "object",
    "properties": {"person": {"type": "boolean"}, "count": {"type": "integer", "minimum": 0, "maximum": 20}},
    "required": ["person", "count"],
    "additionalProperties": False,
}
SCHEMA = JsonSchema(json.dumps(ALARM))
SAMPLED = Sampling(1.5, seed=3, constraint=SCHEMA, top_logprobs=2)
PLANS = ("image/lossless", "tokens/lossless", "lm:1/lossless")


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    model, keys = tiny_model("scenes-like"), Keys(tmp_path / "keys")
    async with contextlib.AsyncExitStack() as stack:
        clouds = [await stack.enter_async_context(cloud_node(model, keys, name=f"cloud-{n}")) for n in (1, 2)]
        identity = keys.identity("edge-1", Role.EDGE)
        camera = await stack.enter_async_context(device(model, clouds[0], identity))
        second = CloudLink(clouds[1].address, clouds[1].compatibility, identity, [])
        stack.push_async_callback(second.close)
        yield Fleet(clouds, camera, second)


async def ask(
    fleet: Fleet, plan: str, sampling: Sampling, *, standby: bool = False, alone: bool = False
) -> RequestReport:
    links = fleet.links[1:] if standby else []
    more = {"standby": links, "finish_alone": alone, "silence_timeout_s": 60.0, "sampling": sampling}
    return await fleet.camera.ask(plan, PICTURE, QUESTION, TOKENS, **more)


def written(fleet: Fleet, report: RequestReport) -> str:
    text: str = fleet.camera.engine.part.tokenizer.decode(report.token_ids, skip_special_tokens=True)
    return text


def assert_alike(report: RequestReport, expected: RequestReport) -> None:
    """Both have the same tokens, with log-probabilities that differ by no more than the last digits of sums do."""
    assert report.token_ids == expected.token_ids
    for token, other in zip(report.token_ids, expected.token_ids, strict=True):
        assert isinstance(token, ChosenToken)
        assert isinstance(other, ChosenToken)
        assert token.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert len(token.top) == 2


async def test_an_answer_under_a_schema_is_the_same_json_at_every_cut(fleet: Fleet) -> None:
    alone = await ask(fleet, "device", SAMPLED)
    jsonschema.validate(json.loads(written(fleet, alone)), ALARM)
    for plan in PLANS:
        report = await ask(fleet, plan, SAMPLED)
        assert_alike(report, alone)


async def test_choices_come_with_their_probabilities_at_every_cut(fleet: Fleet) -> None:
    choices, expected = Choices(("yes", "no", "cannot say")), None
    grammar = fleet.camera.engine.part.grammars.compiled(choices)
    assert isinstance(grammar, ChoiceGrammar)
    for plan in ("device", *PLANS):
        report = await ask(fleet, plan, Sampling(constraint=choices))
        probabilities = {each.text: each.probability for each in grammar.probabilities(report.token_ids)}
        assert probabilities == pytest.approx(expected or probabilities, abs=1e-4)
        assert max(probabilities, key=lambda text: probabilities[text] or 0.0) == written(fleet, report).strip()
        expected = probabilities


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("standby", [True, False])
async def test_whoever_takes_over_goes_on_under_the_schema(fleet: Fleet, plan: str, standby: bool) -> None:
    alone = await ask(fleet, "device", SAMPLED)
    make_faulty(fleet.clouds[0], after(5, lambda frame: frame.CopyFrom(failure())))
    report = await ask(fleet, plan, SAMPLED, standby=standby, alone=not standby)
    assert [fault.tokens for fault in report.faults] == [5]
    assert_alike(report, alone)


def wrong_token(frame: pb.CloudFrame) -> None:
    frame.token.id = 350


def wrong_logprob(frame: pb.CloudFrame) -> None:
    frame.token.logprob = 0.5


def no_logprob(frame: pb.CloudFrame) -> None:
    frame.token.ClearField("logprob")


def too_many(frame: pb.CloudFrame) -> None:
    frame.token.top_ids.append(1)
    frame.token.top_logprobs.append(-20.0)


@pytest.mark.parametrize("lie", [wrong_token, wrong_logprob, no_logprob, too_many])
async def test_a_cloud_that_lies_about_tokens_is_left_by_the_device(
    fleet: Fleet, lie: Callable[[pb.CloudFrame], None]
) -> None:
    alone = await ask(fleet, "device", SAMPLED)
    make_faulty(fleet.clouds[0], after(3, lie))
    report = await ask(fleet, "tokens/lossless", SAMPLED, alone=True)
    assert [(fault.code, fault.tokens) for fault in report.faults] == [("protocol", 3)]
    assert report.answered_by is Side.DEVICE
    assert_alike(report, alone)


async def test_a_cloud_refuses_a_schema_that_it_cannot_use_and_nothing_else(fleet: Fleet) -> None:
    link = fleet.links[0]
    bad = JsonSchema('{"type": "integer", "multipleOf": 999983}')
    sampling = Sampling(constraint=bad)
    good = fleet.camera.engine.part.grammars.compiled(SCHEMA)
    fleet.camera.engine.part.grammars._compiled[bad] = good  # a device that does not check what it sends
    with pytest.raises(UsageError, match="multipleOf") as caught:
        await ask(fleet, "tokens/lossless", sampling)
    assert caught.value.from_peer
    assert len((await ask(fleet, "tokens/lossless", Sampling())).token_ids) > 0
    assert link.health.reachable


def after(tokens: int, change: Callable[[pb.CloudFrame], None]) -> Callable[[pb.CloudFrame], list[pb.CloudFrame]]:
    """Changes the frame of the token that comes after so many."""
    seen = 0

    def changed(frame: pb.CloudFrame) -> list[pb.CloudFrame]:
        nonlocal seen
        if frame.HasField("token"):
            seen += 1
            if seen == tokens + 1:
                change(frame)
        return [frame]

    return changed


def failure() -> pb.CloudFrame:
    return pb.CloudFrame(failure=pb.Failure(code="peer-unavailable", sentence="Gone."))
