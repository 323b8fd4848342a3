"""Decides how long a silent cloud node is waited for, where another or the device could take over. Pure: no clock inside."""

from __future__ import annotations

from collections import deque
from statistics import median

SILENCE_FACTOR = 4.0  # times the longest silence that is normal: beyond it a node is taken for dead
LEAST_S = 1.5  # above stalls of mobile links that pass by themselves
UNKNOWN_S = 30.0  # where nothing is known: as long as keepalive takes to find a dead connection
MOST_S = 120.0
KEPT = 50  # answers that are learned from
RECENT_S = 600.0  # a long silence counts so long: the load or the link that made it does not last for ever


class FailureDetector:
    """Learns from every answer how long cloud nodes are silent: while they queue, prefill and choose tokens."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=KEPT)  # (time in s, longest silence of an answer in s)

    def saw(self, silence_s: float, now_s: float) -> None:
        """Learns the longest silence of one answer, at a time in s of a steady clock."""
        self._seen.append((now_s, silence_s))

    def limit_s(self, predicted_s: float, now_s: float) -> float:
        """Returns the silence that is waited for, in s. `predicted_s` is the whole answer's by the plan's line, else 0."""
        usual_s = max(self._usual_s(now_s), predicted_s)
        return min(max(LEAST_S, SILENCE_FACTOR * usual_s), MOST_S) if usual_s else UNKNOWN_S

    def _usual_s(self, now_s: float) -> float:
        """Returns the longest silence of the last minutes, in s; where nothing was asked then, that of an ordinary answer."""
        recent = [silence_s for at_s, silence_s in self._seen if now_s - at_s <= RECENT_S]
        if recent:
            return max(recent)
        return median(silence_s for _, silence_s in self._seen) if self._seen else 0.0
