"""A chosen token that knows how likely it was, for requests that ask for it."""

from __future__ import annotations

from typing import NamedTuple

MAX_TOP_LOGPROBS = 20  # as in the OpenAI API


class TokenLogprob(NamedTuple):
    """Holds the natural logarithm of a token's probability.

    It is the log-softmax of the model's raw scores, before any rule, constraint or temperature: what a model says itself, as
    in vLLM (`raw_logprobs`) and the OpenAI API.
    """

    token_id: int
    logprob: float


class ChosenToken(int):
    """Is a token's id, with the log-probabilities at its place in the answer.

    It is an int, so that it passes wherever token ids do; answers whose logprobs nobody asked for consist of plain ints.
    """

    logprob: float
    top: tuple[
        TokenLogprob, ...
    ]  # of the most likely tokens, the first of equal ones first; then of other tokens asked for

    def __new__(cls, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> ChosenToken:
        """Returns the token of an id."""
        token = super().__new__(cls, token_id)
        token.logprob, token.top = logprob, top
        return token

    def __getnewargs__(self) -> tuple[int, float, tuple[TokenLogprob, ...]]:  # type: ignore[override]  # of int: for copies
        return int(self), self.logprob, self.top

    def __repr__(self) -> str:
        return f"ChosenToken({int(self)}, {self.logprob:.4g}, {self.top!r})"
