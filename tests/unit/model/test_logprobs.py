"""Log-probabilities are torch's log-softmax of the raw scores, and cost nothing where nobody asks."""

from __future__ import annotations

import pytest
import torch

from splitvlm.domain import ChosenToken
from splitvlm.model.logprobs import LEAST_LOGPROB, with_logprobs

SCORES_V = torch.tensor([0.5, -1.0, 3.0, 0.5, -torch.inf, 2.5, 0.5])


def test_they_are_the_log_softmax_of_the_raw_scores() -> None:
    expected_V = torch.log_softmax(SCORES_V.double(), dim=-1)
    token = with_logprobs(3, SCORES_V, 5)
    assert isinstance(token, ChosenToken)
    assert token == 3
    assert token.logprob == pytest.approx(float(expected_V[3]))
    assert [each.token_id for each in token.top] == [2, 5, 0, 3, 6]
    assert [each.logprob for each in token.top] == pytest.approx(
        [float(expected_V[each.token_id]) for each in token.top]
    )


def test_a_token_that_the_model_rules_out_has_a_finite_one() -> None:
    assert with_logprobs(4, SCORES_V, 0).logprob == LEAST_LOGPROB


def test_other_tokens_are_told_after_the_most_likely_ones() -> None:
    assert [each.token_id for each in with_logprobs(2, SCORES_V, 1, (0, 1)).top] == [2, 0, 1]
    assert with_logprobs(2, SCORES_V, 0).top == ()


def test_no_more_than_the_vocabulary_is_told() -> None:
    assert len(with_logprobs(2, SCORES_V, 20).top) == len(SCORES_V)


def test_none_is_above_zero() -> None:
    assert with_logprobs(1, torch.tensor([-1e4, 1e4]), 0).logprob == 0.0
