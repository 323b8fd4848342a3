"""A trace: how many bytes a link can carry by which time. Pure arithmetic; reading traces is tracefiles.py.

A trace is kept as its integral: bytes carried since the start, linear between knots. So a rate, a capacity and the time
of a transfer are look-ups, also over gaps without any capacity. A replay starts over at the end. Times are seconds from
the trace's start, rates bit/s.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True, repr=False)
class Trace:
    """Describes the capacity of one direction. `knots_s` rises strictly from 0; `bytes_at` never falls, from 0."""

    name: str
    knots_s: tuple[float, ...]
    bytes_at: tuple[float, ...]

    def __repr__(self) -> str:
        return f"Trace({self.name}, {self.duration_s:g} s, mean {self.mean_bps / 1e6:.3g} Mbit/s)"

    @classmethod
    def of_rates(cls, name: str, spans: Sequence[tuple[float, float]]) -> Trace:
        """Returns a trace of (seconds, bit/s) spans in their order."""
        knots_s = tuple(accumulate((seconds for seconds, _ in spans), initial=0.0))
        bytes_at = tuple(accumulate((seconds * bps / 8 for seconds, bps in spans), initial=0.0))
        return cls(name, knots_s, bytes_at)

    @classmethod
    def constant(cls, uplink_bps: float) -> Trace:
        """Returns a trace of one rate (bit/s) that never changes."""
        return cls.of_rates(f"constant:{uplink_bps:g}bit", [(1.0, uplink_bps)])

    @property
    def duration_s(self) -> float:
        """Returns the seconds after which the trace starts over."""
        return self.knots_s[-1]

    @property
    def mean_bps(self) -> float:
        """Returns the mean rate (bit/s) over the trace."""
        return 8 * self.bytes_at[-1] / self.duration_s

    def capacity_bytes(self, t0_s: float, t1_s: float) -> float:
        """Returns how many bytes can cross from t0 to t1 (seconds)."""
        return self._bytes_by(t1_s) - self._bytes_by(t0_s)

    def rate_bps(self, t_s: float, window_s: float = 1.0) -> float:
        """Returns mean rate of the window that begins at t."""
        return 8 * self.capacity_bytes(t_s, t_s + window_s) / window_s

    def time_to_deliver(self, t0_s: float, n_bytes: float) -> float:
        """Returns seconds from t0 until n bytes have crossed; infinite on a link that is dead for ever."""
        loop_bytes = self.bytes_at[-1]
        if n_bytes <= 0:
            return 0.0
        if loop_bytes <= 0:
            return math.inf
        knots_s, bytes_at = self.knots_s, self.bytes_at
        phase_s = t0_s % knots_s[-1]
        i = min(bisect_right(knots_s, phase_s), len(knots_s) - 1)  # a tiny negative time is rounded to the loop's end
        t0, b0 = knots_s[i - 1], bytes_at[i - 1]
        by_then = b0 + (bytes_at[i] - b0) * (phase_s - t0) / (knots_s[i] - t0) + n_bytes
        loops_s = 0.0
        if by_then > loop_bytes:
            more, by_then = divmod(by_then, loop_bytes)
            if by_then == 0:  # the last byte crosses at the end of this loop's capacity, not at the start of the next
                more, by_then = more - 1, loop_bytes
            loops_s = more * knots_s[-1]
        i = bisect_left(bytes_at, by_then)
        t0, b0 = knots_s[i - 1], bytes_at[i - 1]
        return loops_s + t0 + (knots_s[i] - t0) * (by_then - b0) / (bytes_at[i] - b0) - phase_s

    def _bytes_by(self, t_s: float) -> float:
        loops, phase_s = divmod(t_s, self.duration_s)
        return loops * self.bytes_at[-1] + self._bytes_within(phase_s)

    def _bytes_within(self, phase_s: float) -> float:
        knots_s, bytes_at = self.knots_s, self.bytes_at
        i = min(bisect_right(knots_s, phase_s), len(knots_s) - 1)
        t0, b0 = knots_s[i - 1], bytes_at[i - 1]
        return b0 + (bytes_at[i] - b0) * (phase_s - t0) / (knots_s[i] - t0)


@dataclass(frozen=True, slots=True)
class LinkTrace:
    """Holds what a trace file tells of a link: the uplink, and the downlink and round-trip times where it has them."""

    up: Trace
    down: Trace | None = None
    rtt_knots: tuple[tuple[float, float], ...] = ()  # (seconds, rtt_s), each until the next

    def rtt_s(self, t_s: float) -> float | None:
        """Returns the round-trip time at t, or None where the file tells none."""
        if not self.rtt_knots:
            return None
        i = bisect_right(self.rtt_knots, (t_s % self.up.duration_s, math.inf))
        return self.rtt_knots[max(i - 1, 0)][1]


def spans(trace: Trace) -> tuple[tuple[float, float], ...]:
    """Returns the trace as (seconds, bit/s), for plots and files."""
    rows = zip(pairwise(trace.knots_s), pairwise(trace.bytes_at), strict=True)
    return tuple((t1 - t0, 8 * (b1 - b0) / (t1 - t0)) for (t0, t1), (b0, b1) in rows)
