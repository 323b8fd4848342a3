"""A constraint is checked when it is made; a chosen token is its id."""

from __future__ import annotations

import pickle

import pytest

from splitvlm.domain import (
    GREEDY,
    JSON_OBJECT,
    MAX_CHOICES,
    MAX_SCHEMA_BYTES,
    Choices,
    ChosenToken,
    JsonSchema,
    Sampling,
)
from splitvlm.domain.token import TokenLogprob
from splitvlm.errors import UsageError


@pytest.mark.parametrize("texts", [(), ("",), (" yes", "no"), ("yes", "yes"), ("x" * 257,), ("\ud800",)])
def test_lists_that_are_none_of_choices_are_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        Choices(texts)


def test_too_many_choices_are_refused() -> None:
    texts = tuple(str(number) for number in range(MAX_CHOICES + 1))
    Choices(texts[:-1])
    with pytest.raises(UsageError):
        Choices(texts)


@pytest.mark.parametrize("text", ["", "x" * (MAX_SCHEMA_BYTES + 1), "\udfff"])
def test_texts_that_are_no_schema_by_their_size_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        JsonSchema(text)


def test_a_constrained_answer_is_not_the_models_own_greedy_one() -> None:
    assert GREEDY.is_greedy
    assert not Sampling(constraint=JSON_OBJECT).is_greedy
    assert Sampling(top_logprobs=3).is_greedy


def test_a_chosen_token_is_its_id() -> None:
    token = ChosenToken(7, -0.5, (TokenLogprob(7, -0.5), TokenLogprob(9, -1.0)))
    assert token == 7
    assert [1, 2, 7][token - 5] == 7
    copied = pickle.loads(pickle.dumps(token))
    assert (copied, copied.logprob, copied.top) == (7, -0.5, token.top)
