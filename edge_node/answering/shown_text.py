"""The text of an answer that an application sees: of its tokens, without half characters, and up to the first stop string.

It comes with its tokens where those have log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_node.answering.events import AnswerText, LikelyToken, ShownToken
from edge_node.answering.shown_tokens import ShownTokens
from edge_node.answering.stop_strings import StopFilter
from splitvlm.domain import ChosenToken
from splitvlm.model.text import TextStream, token_bytes


class ShownText:
    """Turns one answer's token ids into the pieces of text that are shown."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], num_top: int | None = None) -> None:
        """Takes stop strings that were checked, and how many most likely tokens each token is shown with; None: it is not."""
        self._tokenizer = tokenizer.backend_tokenizer
        self._text = TextStream(tokenizer)
        self._filter = StopFilter(stop)
        self._tokens = ShownTokens()
        self._num_top = num_top

    @property
    def stopped(self) -> bool:
        """Tells whether a stop string came: nothing follows."""
        return self._filter.stopped

    def push(self, token_id: int) -> AnswerText | None:
        """Returns the text that became certain with this token; None while it may be part of a character or a stop string."""
        made = self._text.push(token_id)
        if self._num_top is not None:
            self._tokens.made(token_id, made)
        return self._shown(self._filter.push(made))

    def finish(self) -> AnswerText | None:
        """Returns what is left at the end of the answer; None where nothing is."""
        return self._shown(self._filter.push(self._text.finish()) + self._filter.finish())

    def _shown(self, text: str) -> AnswerText | None:
        return AnswerText(text, tuple(map(self._shown_token, self._tokens.shown(text)))) if text else None

    def _shown_token(self, token: ChosenToken) -> ShownToken:
        chosen = self._likely(token, token.logprob)
        top = (self._likely(*other) for other in token.top[: self._num_top])
        return ShownToken(chosen, tuple(top))

    def _likely(self, token_id: int, logprob: float) -> LikelyToken:
        return LikelyToken(int(token_id), token_bytes(self._tokenizer, token_id), logprob)
