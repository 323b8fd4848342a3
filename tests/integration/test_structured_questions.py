"""Structured answers as applications ask for them over the edge node's port, and what it says of tokens and choices."""

from __future__ import annotations

import io
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest

from splitvlm.domain import Choices, Conversation, JsonSchema, Sampling
from splitvlm.errors import UsageError
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.rpc.sampling import sampling_to_wire
from splitvlm.rpc.status import from_rpc
from splitvlm.wire.v1 import local_pb2 as pb
from tests.edge import QUESTION, Node, edge_node
from tests.samples import PICTURE

ALARM: dict[str, Any] = {
    "type": "object",
    "properties": {"person": {"type": "boolean"}, "count": {"type": "integer", "minimum": 0, "maximum": 20}},
    "required": ["person", "count"],
    "additionalProperties": False,
}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with edge_node(tmp_path) as node:
        yield node


async def answers(node: Node, sampling: Sampling, plan: str, **more: Any) -> list[pb.Answer]:
    """Asks with messages as any application in any language writes them."""
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG")
    message = pb.Question(
        conversation=conversation_to_wire(Conversation.about(QUESTION)),
        images=[buffer.getvalue()],
        plan=plan,
        max_new_tokens=64,
        sampling=sampling_to_wire(sampling),
        **more,
    )
    return [answer async for answer in node.client._stub.Ask(message)]


def text_of(given: list[pb.Answer]) -> str:
    return "".join(answer.text for answer in given)


@pytest.mark.parametrize("plan", ["device", "image/lossless"])
async def test_json_comes_with_its_tokens(node: Node, plan: str) -> None:
    sampling = Sampling(1.5, seed=5, constraint=JsonSchema(json.dumps(ALARM)), top_logprobs=3)
    given = await answers(node, sampling, plan)
    jsonschema.validate(json.loads(text_of(given)), ALARM)
    shown = [token for answer in given for token in answer.tokens]
    assert b"".join(token.chosen.text for token in shown).decode() == text_of(given)
    report = given[-1].report
    assert [token.chosen.id for token in shown] == list(report.token_ids)[:-1]  # but the end
    assert all(len(token.top) == 3 and token.chosen.logprob <= token.top[0].logprob for token in shown)
    assert report.finish_reason == "stop"
    assert not report.sampling.HasField("constraint")


@pytest.mark.parametrize("plan", ["device", "image/lossless"])
async def test_choices_come_with_their_probabilities(node: Node, plan: str) -> None:
    given = await answers(node, Sampling(constraint=Choices(("yes", "no"))), plan)
    choices = given[-1].report.choices
    assert [each.text for each in choices] == ["yes", "no"]
    assert sum(each.probability for each in choices) == pytest.approx(1.0)
    assert text_of(given) == max(choices, key=lambda each: each.probability).text
    assert not any(answer.tokens for answer in given)


async def test_a_bad_schema_is_refused_before_anything_is_sent(node: Node) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(node, Sampling(constraint=JsonSchema('{"type": "objct"}')), "image/lossless")
    error = from_rpc(caught.value, "edge node")
    assert isinstance(error, UsageError)
    assert "objct" in error.sentence
    assert not node.audit.exists() or not node.audited()


async def test_tokens_of_a_stop_string_are_not_shown(node: Node) -> None:
    whole = await answers(node, Sampling(top_logprobs=0), "device")
    stop = text_of(whole)[5:8]
    given = await answers(node, Sampling(top_logprobs=0), "device", stop=[stop])
    shown = [token for answer in given for token in answer.tokens]
    assert text_of(given) == text_of(whole).partition(stop)[0]
    assert 0 < len(shown) < sum(len(answer.tokens) for answer in whole)
    assert all(math.isfinite(token.chosen.logprob) and not token.top for token in shown)
