"""Structured answers and log-probabilities in every engine that has them: valid, those of the undivided model, and alone.

Random weights would never write JSON by themselves: what comes out is the constraint's work.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import cache
from typing import Any

import jsonschema
import pytest

from cloud_node.engine.protocol import Engine
from splitvlm.domain import GREEDY, Choices, ChosenToken, Cut, JsonSchema, Sampling
from splitvlm.errors import ProtocolError
from splitvlm.grammar.choices import ChoiceGrammar
from splitvlm.model.prompt import Prompt
from tests.contract.test_engines import CUTS, ENGINES, IMAGE_OF_TILES, QUESTION, answer, asked, parts, undivided
from tests.tiny_models import FAMILIES

ALARM: dict[str, Any] = {
    "type": "object",
    "properties": {"person": {"type": "boolean"}, "count": {"type": "integer", "minimum": 0, "maximum": 20}},
    "required": ["person", "count"],
    "additionalProperties": False,
}
SCHEMA = JsonSchema(json.dumps(ALARM))
ENOUGH_TOKENS = 64
CHOICES = Choices(("yes", "no", "cannot say"))
SEEDS, SEEDS_AT_ONCE = 50, 10


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    engine = ENGINES[request.param](parts("scenes-like")[1])
    yield engine
    assert engine.close()


@cache
def alone(family: str, sampling: Sampling, num_tokens: int = ENOUGH_TOKENS) -> list[int]:
    """Returns what the undivided model answers."""
    return list(parts(family)[0].generate(Prompt.about(IMAGE_OF_TILES, QUESTION), num_tokens, sampling=sampling))


def text(family: str, token_ids: list[int]) -> str:
    decoded: str = parts(family)[0].tokenizer.decode(token_ids, skip_special_tokens=True)
    return decoded.strip()


def schema_samplings() -> list[Sampling]:
    return [Sampling(temperature=1.5 * (seed > 0), seed=seed, constraint=SCHEMA) for seed in range(SEEDS)]


@pytest.mark.parametrize(
    ("family", "first_seed"),
    [
        *((family, 0) for family in FAMILIES),
        *(("scenes-like", seed) for seed in range(SEEDS_AT_ONCE, SEEDS, SEEDS_AT_ONCE)),
    ],
)
async def test_random_weights_under_a_schema_give_valid_json_with_every_seed(family: str, first_seed: int) -> None:
    engine, cut = ENGINES["torch"](parts(family)[1]), Cut.parse("tokens")
    first = asked(family, cut, max_new_tokens=ENOUGH_TOKENS)
    samplings = schema_samplings()[first_seed : first_seed + SEEDS_AT_ONCE]
    questions = [replace(first, request=replace(first.request, sampling=each)) for each in samplings]
    answers = {text(family, each) for each in await asyncio.gather(*(answer(engine, each) for each in questions))}
    for each in answers:
        jsonschema.validate(json.loads(each), ALARM)
    assert len(answers) > 1
    assert engine.close()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "sampling", [Sampling(constraint=SCHEMA), Sampling(1.5, seed=7, constraint=SCHEMA, top_logprobs=3)]
)
async def test_a_structured_answer_is_that_of_the_undivided_model_at_every_cut(family: str, sampling: Sampling) -> None:
    engine = ENGINES["torch"](parts(family)[1])
    for cut in CUTS:
        question = asked(family, cut, sampling=sampling, max_new_tokens=ENOUGH_TOKENS)
        assert await answer(engine, question) == alone(family, sampling), cut
    assert engine.close()


async def test_unconstrained_neighbours_get_the_tokens_that_they_get_alone(engine: Engine) -> None:
    samplings = [GREEDY, *schema_samplings()[:3], Sampling(1.2, seed=3), Sampling(constraint=CHOICES)]
    family, cut = "scenes-like", Cut.parse("tokens")
    limits = {sampling: 6 if sampling.constraint is None else ENOUGH_TOKENS for sampling in samplings}
    questions = [asked(family, cut, sampling=each, max_new_tokens=limits[each]) for each in samplings]
    answers = await asyncio.gather(*(answer(engine, question) for question in questions))
    for sampling, token_ids in zip(samplings, answers, strict=True):
        assert token_ids == alone(family, sampling, limits[sampling]), sampling


@pytest.mark.parametrize("cut", ["tokens", "lm:1"])
async def test_an_answer_that_is_taken_over_goes_on_identically(engine: Engine, cut: str) -> None:
    sampling = Sampling(1.5, seed=11, constraint=SCHEMA, top_logprobs=2)
    whole = alone("scenes-like", sampling)
    for there in (1, 4, len(whole) - 1):
        question = asked("scenes-like", Cut.parse(cut), sampling=sampling, max_new_tokens=ENOUGH_TOKENS)
        question.request = replace(question.request, resume_token_ids=tuple(whole[:there]))
        assert await answer(engine, question) == whole[there:]


async def test_tokens_that_are_none_under_the_constraint_end_their_request_alone(engine: Engine) -> None:
    question = asked("scenes-like", Cut.parse("tokens"), sampling=Sampling(constraint=SCHEMA), max_new_tokens=20)
    question.request = replace(question.request, resume_token_ids=(9, 9, 9))
    with pytest.raises(ProtocolError):
        await answer(engine, question)
    assert await answer(engine, asked("scenes-like", Cut.parse("tokens"))) == undivided("scenes-like")


async def test_an_answer_without_room_to_end_is_cut_off(engine: Engine) -> None:
    sampling = Sampling(constraint=SCHEMA)
    question = asked("scenes-like", Cut.parse("tokens"), sampling=sampling, max_new_tokens=5)
    assert await answer(engine, question) == alone("scenes-like", sampling)[:5]


@pytest.mark.parametrize("seed", range(4))
async def test_choices_have_the_undivided_models_probabilities(engine: Engine, seed: int) -> None:
    sampling = Sampling(temperature=2.0 * (seed > 0), seed=seed, constraint=CHOICES)
    question = asked("scenes-like", Cut.parse("tokens"), sampling=sampling, max_new_tokens=ENOUGH_TOKENS)
    token_ids = await answer(engine, question)
    assert text("scenes-like", token_ids) in CHOICES.texts
    grammar = parts("scenes-like")[0].grammars.compiled(CHOICES)
    assert isinstance(grammar, ChoiceGrammar)
    given, expected = map(grammar.probabilities, (token_ids, alone("scenes-like", sampling)))
    assert [each.text for each in given] == list(CHOICES.texts)
    assert [each.probability for each in given] == pytest.approx([each.probability for each in expected], rel=1e-3)
    assert sum(each.probability or 0.0 for each in given) == pytest.approx(1.0)


async def test_log_probabilities_come_where_they_are_asked_for(engine: Engine) -> None:
    plain = await answer(engine, asked("scenes-like", Cut.parse("tokens")))
    assert not any(isinstance(token, ChosenToken) for token in plain)
    for num_top in (0, 5):
        question = asked("scenes-like", Cut.parse("tokens"), sampling=Sampling(top_logprobs=num_top))
        tokens = await answer(engine, question)
        assert tokens == plain
        for token, expected in zip(tokens, alone("scenes-like", Sampling(top_logprobs=num_top), 6), strict=True):
            assert isinstance(token, ChosenToken)
            assert isinstance(expected, ChosenToken)
            assert token.logprob == pytest.approx(expected.logprob, abs=1e-3)
            assert len(token.top) == num_top
            assert not num_top or token.top[0].token_id == token
