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
from array import array
from bisect import bisect_left, insort
from math import exp, log

MAX_HISTORY = 32  # samples
LEAST_HISTORY = 4  # below it there is only the level
APART_S = 0.5  # samples nearer in time are one
MEMORY = 0.96  # of the scores, a sample: the last 25 count
LEAST_WEIGHT = 0.03  # no predictor is ever certain
SURPRISE = 0.02  # density of what nobody expected: one miss weighs as much as three hits
LEAST_SCALE = 0.08  # of the logarithm of a rate: two transfers over a constant link differ by so much
AGE_HALF_LIFE_S = 30.0  # what is not `usual` fades without samples
KERNEL = 0.35  # around each of the three samples that stand for the history, in the logarithm
WAITED = 4.0  # a sample so many times below the median was a wait


Point = tuple[float, float, float]
"""One of the links that stand for the next transfer: its weight (all sum to 1), uplink_bps, and wait_s before the first
byte crosses. A plain tuple: fleets are simulated, and seven of them are made a request."""


class History:
    """Keeps the rates as they came, and how well each predictor foretold them."""

    __slots__ = ("_last_s", "_logs", "_ordered", "_payloads", "_scores")

    def __init__(self) -> None:
        # Packed numbers: a simulated fleet holds a thousand histories, and what is slow there is to reach cold memory.
        self._logs = array("d")  # of the rates, as they came
        self._payloads = array("d")  # bytes that they were measured by
        self._ordered = array("d")  # the logarithms, rising
        self._last_s = -math.inf
        self._scores = (0.0, 0.0, 0.0)  # of level, last, usual: logarithms, fading

    def add(self, bps: float, payload_bytes: float, now_s: float, expected: tuple[float, float] | None = None) -> None:
        """Records a rate and how many bytes it was measured by. `expected` is the level_bps and the spread before it.

        Those of one moment count once: a burst of small requests must not be the whole history.
        """
        log_bps = log(bps)
        logs, ordered = self._logs, self._ordered
        if expected is not None and len(logs) >= LEAST_HISTORY:
            self._score(log_bps, *expected)
        if logs and now_s - self._last_s < APART_S:
            del ordered[bisect_left(ordered, logs.pop())]
            self._payloads.pop()
        if len(logs) == MAX_HISTORY:
            del ordered[bisect_left(ordered, logs.pop(0))]
            self._payloads.pop(0)
        logs.append(log_bps)
        self._payloads.append(payload_bytes)
        insort(ordered, log_bps)
        self._last_s = now_s

    def _score(self, log_bps: float, level_bps: float, spread: float) -> None:
        scale = max(LEAST_SCALE, 0.5 * math.log1p(spread))
        low, middle, high = self._usual()
        usual = exp(-abs(log_bps - low) / KERNEL)
        usual += exp(-abs(log_bps - middle) / KERNEL)
        usual += exp(-abs(log_bps - high) / KERNEL)
        level = exp(-abs(log_bps - log(level_bps)) / scale) / (2 * scale)
        last = exp(-abs(log_bps - self._logs[-1]) / LEAST_SCALE) / (2 * LEAST_SCALE)
        level_score, last_score, usual_score = self._scores
        self._scores = (
            MEMORY * level_score + log(level + SURPRISE),
            MEMORY * last_score + log(last + SURPRISE),
            MEMORY * usual_score + log(usual / (6 * KERNEL) + SURPRISE),
        )

    def forecast(self, level_bps: float, spread: float, age_s: float) -> tuple[Point, ...]:
        """Returns the points that stand for the next transfer; `level_bps` and `spread` are the estimate's, `age_s` its age."""
        wide = exp(max(LEAST_SCALE, math.log1p(spread)))
        if len(self._logs) < LEAST_HISTORY:
            return (0.25, level_bps / wide, 0.0), (0.5, level_bps, 0.0), (0.25, level_bps * wide, 0.0)
        level_score, last_score, usual_score = self._scores
        best = max(self._scores)
        level = max(LEAST_WEIGHT, exp(level_score - best))
        last = max(LEAST_WEIGHT, exp(last_score - best))
        usual = max(LEAST_WEIGHT, exp(usual_score - best))
        fresh = math.exp2(-age_s / AGE_HALF_LIFE_S) / (level + last + usual)
        level, last = level * fresh, last * fresh
        each = (1 - level - last) / 3
        low, middle, high = self._usual()
        return (
            (0.25 * level, level_bps / wide, 0.0),
            (0.5 * level, level_bps, 0.0),
            (0.25 * level, level_bps * wide, 0.0),
            (last, exp(self._logs[-1]), 0.0),
            self._slow_third(each, low, exp(middle)),
            (each, exp(middle), 0.0),
            (each, exp(high), 0.0),
        )

    def tail_bps(self, level_bps: float, spread: float) -> float:
        """Returns the rate below which about one transfer in twenty was.

        Before there were so many, the slow end of the level.
        """
        if len(self._ordered) < 16:
            return level_bps / (1 + spread)
        return exp(self._ordered[len(self._ordered) // 16])

    def _slow_third(self, weight: float, low: float, median_bps: float) -> Point:
        bps = exp(low)
        if bps * WAITED >= median_bps:
            return weight, bps, 0.0
        payload_bytes = self._payloads[self._logs.index(low)]
        return weight, median_bps, 8 * payload_bytes * (1 / bps - 1 / median_bps)

    def _usual(self) -> tuple[float, float, float]:
        """Returns the samples that stand for the history: the middles of its slow, its middle and its fast third."""
        ordered, count = self._ordered, len(self._ordered)
        return ordered[count // 6], ordered[count // 2], ordered[5 * count // 6]
