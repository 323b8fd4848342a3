"""The distribution of the next transfer's rate, for whoever weighs risks: what the link is now, or what it usually is.

Three predictors are mixed. *Level* says that the rate stays near the recent mean, within the recent error; it is right on a
noisy steady link. *Last* says that it is what the last transfer saw; it is right on a link of steps. *Usual* says that it
is drawn from those of the last minutes; it is right on a cellular link, whose next seconds have little to do with the
last ones. Their weights follow how well each foretold the samples (log scores with a fading memory: prediction with
expert advice, Vovk 1990). So on a link that cannot be foretold the policy takes what is best on average, and loses nothing
against a fixed plan.

A sample far below the usual rate was most often a wait and then the usual rate: a smaller transfer would have waited as long.
So it counts as a wait, and not as a rate by which every plan's bytes would be multiplied.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import NamedTuple

MAX_HISTORY = 32  # samples
LEAST_HISTORY = 4  # below it there is only the level
APART_S = 0.5  # samples nearer in time are one
MEMORY = 0.96  # of the scores, a sample: the last 25 count
LEAST_WEIGHT = 0.03  # no predictor is ever certain
SURPRISE = 0.02  # density of what nobody expected: one miss weighs as much as three hits
LEAST_SCALE = 0.08  # of the logarithm of a rate: two transfers over a constant link differ by so much
AGE_HALF_LIFE_S = 30.0  # what is not `usual` fades without samples
SHARES = (1 / 6, 1 / 2, 5 / 6)  # of the history that stand for it
KERNEL = 0.35  # around each of these, in the logarithm
WIDTHS = ((0.25, -1.0), (0.5, 0.0), (0.25, 1.0))  # weights and places, in scales, that stand for the level
WAITED = 4.0  # a sample so many times below the median was a wait


class Point(NamedTuple):
    """One of the links that stand for the next transfer."""

    weight: float  # all weights sum to 1
    uplink_bps: float
    wait_s: float  # before the first byte crosses


class _Seen(NamedTuple):
    log_bps: float
    payload_bytes: float
    bps: float


class History:
    """Rates as they came, and how well each predictor foretold them."""

    __slots__ = ("_last_s", "_ordered", "_scores", "_seen", "_stand_in")

    def __init__(self) -> None:
        self._seen: deque[_Seen] = deque()
        self._ordered: list[_Seen] = []  # the same, rising
        self._stand_in: list[_Seen] | None = None  # what _usual says, until a sample comes or goes
        self._last_s = -math.inf
        self._scores = (0.0, 0.0, 0.0)  # of level, last, usual: logarithms, fading

    def score(self, bps: float, level_bps: float, spread: float) -> None:
        """A sample has come; `level_bps` and `spread` are what was expected of it."""
        if len(self._seen) < LEAST_HISTORY:
            return
        log, exp = math.log, math.exp
        seen = log(bps)
        scale = max(LEAST_SCALE, 0.5 * math.log1p(spread))
        usual = 0.0
        for log_bps, _, _ in self._usual():
            usual += exp(-abs(seen - log_bps) / KERNEL)
        level_density = exp(-abs(seen - log(level_bps)) / scale) / (2 * scale)
        last_density = exp(-abs(seen - self._seen[-1][0]) / LEAST_SCALE) / (2 * LEAST_SCALE)
        level_score, last_score, usual_score = self._scores
        self._scores = (
            MEMORY * level_score + log(level_density + SURPRISE),
            MEMORY * last_score + log(last_density + SURPRISE),
            MEMORY * usual_score + log(usual / (2 * KERNEL * len(SHARES)) + SURPRISE),
        )

    def add(self, bps: float, payload_bytes: float, now_s: float) -> None:
        """Remember a rate and how many bytes it was measured by.

        Those of one moment count once: a burst of small requests must not be the whole history.
        """
        if self._seen and now_s - self._last_s < APART_S:
            self._forget(self._seen.pop())
        if len(self._seen) == MAX_HISTORY:
            self._forget(self._seen.popleft())
        one = _Seen(math.log(bps), payload_bytes, bps)
        self._seen.append(one)
        insort(self._ordered, one)
        self._stand_in = None
        self._last_s = now_s

    def _forget(self, one: _Seen) -> None:
        self._stand_in = None
        del self._ordered[bisect_left(self._ordered, one)]

    def outlook(self, level_bps: float, spread: float, age_s: float) -> tuple[Point, ...]:
        """The points that stand for the next transfer; `level_bps` and `spread` are the estimate's, `age_s` its age."""
        scale = max(LEAST_SCALE, math.log1p(spread))
        if len(self._seen) < LEAST_HISTORY:
            return tuple(Point(weight, level_bps * math.exp(place * scale), 0.0) for weight, place in WIDTHS)
        level_score, last_score, usual_score = self._scores
        best = max(self._scores)
        level = max(LEAST_WEIGHT, math.exp(level_score - best))
        last = max(LEAST_WEIGHT, math.exp(last_score - best))
        usual = max(LEAST_WEIGHT, math.exp(usual_score - best))
        fresh = math.exp2(-age_s / AGE_HALF_LIFE_S) / (level + last + usual)
        level, last = level * fresh, last * fresh
        each = (1 - level - last) / len(SHARES)
        points = [Point(level * weight, level_bps * math.exp(place * scale), 0.0) for weight, place in WIDTHS]
        points.append(Point(last, self._seen[-1].bps, 0.0))
        median_bps = self._ordered[len(self._ordered) // 2].bps
        for _, payload_bytes, bps in self._usual():
            if bps * WAITED >= median_bps:
                points.append(Point(each, bps, 0.0))
            else:
                points.append(Point(each, median_bps, 8 * payload_bytes * (1 / bps - 1 / median_bps)))
        return tuple(points)

    def _usual(self) -> list[_Seen]:
        """The samples that stand for the history."""
        if self._stand_in is None:
            count = len(self._ordered)
            ordered = self._ordered
            self._stand_in = [ordered[int(share * count)] for share in SHARES]
        return self._stand_in
