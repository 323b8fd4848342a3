"""Tells which chosen tokens a piece of an answer's text shows, for applications that ask for log-probabilities. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from splitvlm.domain import ChosenToken


class ShownTokens:
    """Follows an answer's text as its tokens make it and as it is shown.

    A token is shown by the piece that has its first character; one that makes no character, by the piece that has the next
    one. Tokens whose text is never shown (the end, a stop string's) never come.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[ChosenToken, int]] = deque()  # with where their text begins
        self._made = 0  # characters
        self._shown = 0

    def made(self, token: int, text: str) -> None:
        """Notes that a token made a piece of text, which is not shown yet."""
        if isinstance(token, ChosenToken):
            self._waiting.append((token, self._made))
        self._made += len(text)

    def shown(self, text: str) -> tuple[ChosenToken, ...]:
        """Returns the tokens of the next piece that is shown."""
        self._shown += len(text)
        return tuple(self._begun())

    def _begun(self) -> Iterator[ChosenToken]:
        while self._waiting and self._waiting[0][1] < self._shown:
            yield self._waiting.popleft()[0]
