"""Sampling over the wire: what is left out has its default, what is invalid gets a sentence, greedy is no byte."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edge_node.local.messages import question_from_wire
from splitvlm.domain import GREEDY, JSON_OBJECT, MAX_SCHEMA_BYTES, MAX_SEED, Choices, Conversation, Sampling
from splitvlm.errors import UsageError
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.rpc.sampling import sampling_of, sampling_to_wire
from splitvlm.wire.v1.data_pb2 import Begin
from splitvlm.wire.v1.local_pb2 import Question


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=0.7, seed=MAX_SEED),
        Sampling(1.0, 0.9, 40, 1.1, 3),
        Sampling(repetition_penalty=1.2),
        Sampling(temperature=1.0, seed=0),
        Sampling(constraint=JSON_OBJECT),
        Sampling(temperature=0.7, seed=4, constraint=Choices(("yes", "no")), top_logprobs=20),
        Sampling(top_logprobs=0),
    ],
)
def test_what_is_sent_arrives(sampling: Sampling) -> None:
    assert sampling_of(Begin(sampling=sampling_to_wire(sampling)), drawn_seed=9) == sampling


def test_greedy_is_no_byte() -> None:
    for greedy in (GREEDY, Sampling(top_k=5, top_p=0.5, seed=3)):
        assert Begin(sampling=sampling_to_wire(greedy)).ByteSize() == 0


ASKED = conversation_to_wire(Conversation.about("How many?"))


def test_a_seed_that_is_left_out_is_drawn_by_the_edge_node() -> None:
    wanted = sampling_to_wire(Sampling(temperature=1.0), with_seed=False)
    seeds = {question_from_wire(Question(conversation=ASKED, sampling=wanted)).sampling.seed for _ in range(20)}
    assert len(seeds) > 10
    assert question_from_wire(Question(conversation=ASKED)).sampling == GREEDY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", 1e-9),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_p", math.nan),
        ("top_k", 2**31),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", math.inf),
        ("top_logprobs", 21),
    ],
)
def test_an_invalid_value_is_named(name: str, value: Any) -> None:
    message: Any = {name: value}
    for holder in (Begin, Question):
        with pytest.raises(UsageError, match=name):
            sampling_of(holder(sampling=message))
    with pytest.raises(UsageError, match=name):
        Sampling(**message)


def test_a_seed_has_64_bits() -> None:
    for seed in (-1, MAX_SEED + 1):
        with pytest.raises(UsageError, match="seed"):
            Sampling(temperature=1.0, seed=seed)


def test_an_empty_constraint_is_refused() -> None:
    with pytest.raises(UsageError, match="neither"):
        sampling_of(Begin(sampling={"constraint": {}}))


def test_a_constraint_beyond_its_limits_is_refused() -> None:
    for message in ({"json_schema": " " * (MAX_SCHEMA_BYTES + 1)}, {"choices": {"texts": ["x"] * 2}}):
        with pytest.raises(UsageError):
            sampling_of(Begin(sampling={"constraint": message}))
