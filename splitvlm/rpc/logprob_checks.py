"""Checks the log-probabilities that a cloud node sends with a token: pure, and a sentence's end where they cannot be true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from splitvlm.domain import ChosenToken


def wrong_logprobs(token: int, num_top: int | None, told: Sequence[int], vocabulary_size: int) -> str:
    """Returns what is wrong with a token's log-probabilities; nothing where they are what was asked for.

    Asked for are those of the `num_top` most likely tokens (None: not even of the token itself) and of `told`.
    """
    if num_top is None and not told:
        return "sent log-probabilities that nobody asked for" if isinstance(token, ChosenToken) else ""
    if not isinstance(token, ChosenToken):
        return "left out a token's log-probability"
    num_most_likely = min(num_top or 0, vocabulary_size)
    most_likely, others = token.top[:num_most_likely], token.top[num_most_likely:]
    if len(most_likely) < num_most_likely or [each.token_id for each in others] != list(told):
        return "sent log-probabilities of other tokens than were asked for"
    if any(each.token_id >= vocabulary_size for each in token.top):
        return "sent a log-probability of a token that the model does not have"
    numbers = [token.logprob, *(each.logprob for each in token.top)]
    if any(not -math.inf < number <= 0 for number in numbers):
        return "sent a log-probability that is none"
    if any(first.logprob < second.logprob for first, second in pairwise(most_likely)):
        return "sent the most likely tokens in a wrong order"
    if any(each.logprob != token.logprob for each in token.top if each.token_id == token):
        return "sent two log-probabilities of one token"
    return ""
