"""Bounds how often each caller may call, by a bucket that is refilled at a steady rate. Pure: `now_s` is passed in."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_CALLERS = 10_000  # the longest unseen is forgotten, which fills its bucket


@dataclass(slots=True)
class _Bucket:
    calls_left: float
    at_s: float


class Pace:
    """Allows each caller at most `burst` calls at once, and `rate_per_s` in the long run."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self.rate_per_s = rate_per_s
        self._burst = burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the longest unseen first

    def wait_s(self, caller: str, now_s: float) -> float:
        """Books a call and returns 0, or returns after how many seconds the caller may call again."""
        bucket = self._buckets.setdefault(caller, _Bucket(self._burst, now_s))
        self._buckets.move_to_end(caller)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        bucket.calls_left = min(self._burst, bucket.calls_left + self.rate_per_s * (now_s - bucket.at_s))
        bucket.at_s = now_s
        if bucket.calls_left < 1:
            return (1 - bucket.calls_left) / self.rate_per_s
        bucket.calls_left -= 1
        return 0.0
