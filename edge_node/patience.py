"""How long a silent cloud node is waited for, where another or the device could take over."""

from __future__ import annotations

PATIENCE = 4.0  # times the longest silence that is normal: beyond it a node is taken for dead
LEAST_S = 1.5  # above stalls of mobile links that pass by themselves
UNKNOWN_S = 30.0  # where nothing is known: as long as keepalive takes to find a dead connection
MOST_S = 120.0
DECAY = 0.98  # a request, of the longest silence seen: about fifty later it counts for a third


class Patience:
    """Learns from every answer how long cloud nodes are silent: while they queue, prefill and choose tokens."""

    def __init__(self) -> None:
        self._longest_s = 0.0

    def saw(self, silence_s: float) -> None:
        self._longest_s = max(silence_s, DECAY * self._longest_s)

    def limit_s(self, predicted_s: float) -> float:
        """`predicted_s` of the whole answer, where a plan's line says; 0 where nothing does."""
        usual_s = max(self._longest_s, predicted_s)
        return min(max(LEAST_S, PATIENCE * usual_s), MOST_S) if usual_s else UNKNOWN_S
