"""A mean over the last seconds. Pure: the time is an argument."""

from __future__ import annotations

from collections import deque


class RecentMean:
    """Keeps what was noted within the last `window_s` seconds, and its mean: 0 where nothing was noted."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._noted: deque[tuple[float, float]] = deque()  # (time in s, value), the oldest first
        self._sum = 0.0

    def note(self, value: float, now_s: float) -> None:
        """Adds a value. `now_s` never goes back."""
        self._noted.append((now_s, value))
        self._sum += value
        self._forget(now_s)

    def at(self, now_s: float) -> float:
        """Returns the mean at that time, in the values' own unit."""
        self._forget(now_s)
        return self._sum / len(self._noted) if self._noted else 0.0

    def _forget(self, now_s: float) -> None:
        while self._noted and self._noted[0][0] < now_s - self._window_s:
            self._sum -= self._noted.popleft()[1]
        if not self._noted:
            self._sum = 0.0  # what rounding left
