"""The text of an answer that an application sees: of its tokens, without half characters, and up to the first stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_node.answering.stop_strings import StopFilter
from splitvlm.model.text import TextStream


class ShownText:
    """Turns one answer's token ids into the pieces of text that are shown."""

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        """Takes stop strings that were checked."""
        self._text = TextStream(tokenizer)
        self._filter = StopFilter(stop)

    @property
    def stopped(self) -> bool:
        """Tells whether a stop string came: nothing follows."""
        return self._filter.stopped

    def push(self, token_id: int) -> str:
        """Returns the text that became certain with this token; empty while it may be part of a character or a stop string."""
        return self._filter.push(self._text.push(token_id))

    def finish(self) -> str:
        """Returns what is left at the end of the answer."""
        return self._filter.push(self._text.finish()) + self._filter.finish()
