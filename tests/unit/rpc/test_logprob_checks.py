"""What a cloud node says of log-probabilities is believed only where a node in order could have said it."""

from __future__ import annotations

import math

import pytest

from splitvlm.domain import ChosenToken, TokenLogprob
from splitvlm.rpc.logprob_checks import wrong_logprobs
from splitvlm.rpc.tokens import token_of, token_to_wire

SIZE = 100


def token(logprob: float, *top: tuple[int, float]) -> ChosenToken:
    return ChosenToken(7, logprob, tuple(TokenLogprob(*each) for each in top))


GOOD = token(-0.5, (7, -0.5), (3, -1.0))


@pytest.mark.parametrize(
    ("chosen", "num_top", "told"),
    [
        (7, None, ()),
        (token(-0.5), 0, ()),
        (GOOD, 2, ()),
        (token(-3.0, (1, 0.0), (2, -3.0), (7, -3.0), (9, -20.0)), 2, (7, 9)),
        (token(-3.0, (7, -3.0), (9, -1.0)), None, (7, 9)),
    ],
)
def test_what_was_asked_for_is_taken(chosen: int, num_top: int | None, told: tuple[int, ...]) -> None:
    assert not wrong_logprobs(chosen, num_top, told, SIZE)


@pytest.mark.parametrize(
    ("chosen", "num_top", "told", "wrong"),
    [
        (GOOD, None, (), "nobody asked"),
        (7, 0, (), "left out"),
        (7, None, (3, 7), "left out"),
        (token(-0.5, (7, -0.5)), 2, (), "other tokens"),
        (GOOD, 0, (), "other tokens"),
        (GOOD, 1, (2,), "other tokens"),
        (token(-0.5, (7, -0.5), (SIZE, -1.0)), 2, (), "does not have"),
        (token(0.1), 0, (), "is none"),
        (token(math.nan), 0, (), "is none"),
        (token(-math.inf), 0, (), "is none"),
        (token(-0.5, (7, -0.5), (3, math.nan)), 2, (), "is none"),
        (token(-1.0, (7, -1.0), (3, -0.5)), 2, (), "order"),
        (token(-1.0, (7, -0.9), (3, -1.0)), 2, (), "two"),
    ],
)
def test_anything_else_is_named(chosen: int, num_top: int | None, told: tuple[int, ...], wrong: str) -> None:
    assert wrong in wrong_logprobs(chosen, num_top, told, SIZE)


def test_tokens_cross_the_wire_and_plain_ones_as_their_id_alone() -> None:
    crossed = token_of(token_to_wire(GOOD))
    assert isinstance(crossed, ChosenToken)
    assert (crossed, crossed.logprob, crossed.top) == (7, -0.5, GOOD.top)
    assert not isinstance(token_of(token_to_wire(7)), ChosenToken)
    assert token_to_wire(7).ByteSize() == 2
