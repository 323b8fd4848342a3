"""Bounds a link's rate by transfers of a few hundred bytes. No clock is inside; rates are bit/s, times seconds, sizes bytes.

A transfer's *excess* is its time beyond the round trip: serialisation, and whatever both ends took longer for it than for an
empty call. So the rate was at least what the excess says. What the excess holds beyond serialisation at the believed rate is
taken for *work* of the ends: its least of the last minutes is always there, and how far one lies from the mean of those before
and after it is jitter (a link that fades moves all three). What is left is serialisation, and bounds the rate from above.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

RESOLUTION_S = 0.002  # times below this are timer and scheduler, not link
TELLING_S = 10 * RESOLUTION_S  # so long an excess is all serialisation,
SUDDEN = (
    4.0  # unless the rate would have fallen so many times (or so many as seconds went by): then the next one decides,
)
FELL_S = 0.1  # but not of so long a one: no jitter does that
WINDOW_S = 600.0  # of the least work of the ends, in two halves
JITTERS = 1.5  # the median deviation, times this
MAX_DEVIATIONS = 8
UNKNOWN_JITTER_S = 0.005  # of a device whose jitter was not seen yet


class RateBounds(NamedTuple):
    """Holds the rates between which a link is. The upper one is infinite where it is not known."""

    lower_bps: float
    upper_bps: float
    own_upper_bps: float  # by the last transfer alone, whether it is believed or not

    @property
    def middle_bps(self) -> float:
        """Returns the rate that is as many times above the lower one as below the upper one."""
        return math.sqrt(self.lower_bps * self.upper_bps)


class SmallTransfers:
    """Takes the small transfers of one link in their order."""

    __slots__ = ("_at_s", "_deviations_s", "_half_s", "_last_bps", "_least_work_s", "_works_s")

    def __init__(self) -> None:
        self._last_bps = 0.0, math.inf  # bounds by the last one alone,
        self._at_s = math.inf  # and when it came
        self._works_s = (math.inf, math.inf)  # of the one before, and of the last one; infinite: not told
        self._deviations_s: deque[float] = deque(maxlen=MAX_DEVIATIONS)
        self._half_s = -math.inf  # when the running half of the window began
        self._least_work_s = (math.inf, math.inf)  # of the half before, and of the running one

    def add(self, num_bytes: int, excess_s: float, level_bps: float, now_s: float) -> RateBounds:
        """Returns what a transfer, and where it is hard to believe the one before, tell of a rate taken for `level_bps`."""
        bits, excess_s = 8 * num_bytes, max(excess_s, RESOLUTION_S)
        self._note(excess_s, excess_s - bits / level_bps, now_s)
        quickest_bps = bits / excess_s
        last_lower_bps, last_upper_bps = self._last_bps
        if excess_s >= TELLING_S:
            lower_bps = upper_bps = quickest_bps
            falls_to = last_lower_bps / max(SUDDEN, 1 + now_s - self._at_s)
            believed = quickest_bps >= falls_to or excess_s >= FELL_S
        else:
            serialisation_s = excess_s - min(self._least_work_s) - self._jitter_s()
            upper_bps = bits / serialisation_s if serialisation_s > 0 else math.inf
            lower_bps = max(bits / (excess_s + RESOLUTION_S), min(quickest_bps, last_lower_bps))
            believed = False
        self._last_bps, self._at_s = (quickest_bps, upper_bps), now_s
        return RateBounds(lower_bps, upper_bps if believed else max(upper_bps, last_upper_bps), upper_bps)

    def _jitter_s(self) -> float:
        if not self._deviations_s:
            return UNKNOWN_JITTER_S
        return max(RESOLUTION_S, JITTERS * sorted(self._deviations_s)[len(self._deviations_s) // 2])

    def _note(self, excess_s: float, work_s: float, now_s: float) -> None:
        before_s, last_s = self._works_s
        self._works_s = last_s, work_s if excess_s < TELLING_S else math.inf
        deviation_s = abs(last_s - (before_s + work_s) / 2)
        if excess_s < TELLING_S and deviation_s < math.inf:
            self._deviations_s.append(deviation_s)
        half_before_s, running_s = self._least_work_s
        if now_s - self._half_s > WINDOW_S / 2:
            self._half_s, half_before_s, running_s = now_s, running_s, math.inf
        self._least_work_s = half_before_s, min(running_s, max(0.0, work_s))
