"""Log-probabilities of tokens by a model's raw scores."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from splitvlm.domain import ChosenToken, TokenLogprob

LEAST_LOGPROB = -9999.0  # of a token that the model rules out, as in the OpenAI API: JSON has no minus infinity


def with_logprobs(token_id: int, logits_V: torch.Tensor, num_top: int, told: Iterable[int] = ()) -> ChosenToken:
    """Returns a token with its log-probability, those of the `num_top` most likely tokens, and those of `told`."""
    scores_V = logits_V.to("cpu", torch.float64).numpy()
    most = scores_V.max()
    log_sum = most + np.log(np.exp(scores_V - most).sum())

    def logprob(other_id: int) -> float:
        return float(np.clip(scores_V[other_id] - log_sum, LEAST_LOGPROB, 0.0))

    others = [*_top(scores_V, num_top), *told]
    return ChosenToken(token_id, logprob(token_id), tuple(TokenLogprob(other, logprob(other)) for other in others))


def _top(scores_V: NDArray[np.float64], num_top: int) -> list[int]:
    """Returns the ids of the largest scores, the first of equal ones first."""
    num_top = min(num_top, len(scores_V))
    if not num_top:
        return []
    least = np.partition(scores_V, -num_top)[-num_top]
    ids = np.flatnonzero(scores_V >= least)
    return [int(token_id) for token_id in ids[np.argsort(-scores_V[ids], kind="stable")][:num_top]]
