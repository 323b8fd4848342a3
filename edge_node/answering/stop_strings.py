"""Stop strings: an answer ends before the first of them, and no part of it is shown. Pure: pieces of text in, pieces out.

The first stop string is the one that is complete first, of several that are complete at once the longest: so the answer does
not depend on where its pieces were cut, and ends as soon as it can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from splitvlm.errors import UsageError

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256


def check_stop_strings(stop: Sequence[str]) -> None:
    """Raises UsageError for stop strings that are too many or too long, and for an empty one, which would stop every answer."""
    if len(stop) > MAX_STOP_STRINGS:
        raise UsageError(f"There are {len(stop)} stop strings, but {MAX_STOP_STRINGS} are the most.")
    if any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in stop):
        raise UsageError(f"A stop string has from 1 to {MAX_STOP_CHARACTERS} characters.")


class StopFilter:
    """Passes an answer's text on as far as it cannot be part of a stop string, and ends before the first of them."""

    def __init__(self, stop: Sequence[str]) -> None:
        """Takes stop strings that were checked; with none all text passes at once."""
        self._stop = tuple(stop)
        self._held = ""  # the end of the text so far, which some stop string begins with
        self.stopped = False  # a stop string was complete: no text follows any more

    def push(self, piece: str) -> str:
        """Returns the text that is certain now to come before every stop string."""
        if self.stopped:
            return ""
        text = self._held + piece
        first = min(self._complete(text), default=None)
        if first is not None:
            self.stopped, self._held = True, ""
            return text[: first[1]]
        passed = len(text) - self._num_held(text)
        self._held = text[passed:]
        return text[:passed]

    def finish(self) -> str:
        """Returns what was held at the end of an answer that no stop string ended."""
        held, self._held = self._held, ""
        return held

    def _complete(self, text: str) -> Iterator[tuple[int, int]]:
        """Yields the first occurrence of each stop string as its end and its start."""
        for stop in self._stop:
            start = text.find(stop)
            if start >= 0:
                yield start + len(stop), start

    def _num_held(self, text: str) -> int:
        """Returns the length of the longest end of the text with which some stop string begins."""
        return max(map(lambda stop: _overlap(text, stop), self._stop), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next(length for length in range(longest, -1, -1) if text.endswith(stop[:length]))
