"""The conclusion of a simulation: what to take on a link, what it saves, and how sure that is. Pure.

Two contenders are compared request by request: both met the same arrivals, sizes and link. Requests that follow one another
are alike, so that they are no independent observations: their differences are averaged over BLOCKS spans of time, and the
95 % interval is Student's over those means (batch means; Law, Simulation Modeling and Analysis, 5th ed., section 9.5.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

from orchestrator.simulator.results import Comparison, Run, Summary
from splitvlm.files.shown import number, percent

BLOCKS = 20
T_95 = 2.093  # Student's quantile for BLOCKS - 1 degrees of freedom
MATTERS = 0.01  # a difference of a smaller share of the latency does not count
NOTHING_S = 1e-6
OURS = "adaptive"
BASELINES = {"adaptive-jpeg": "JPEG adapted to the link", "device/none": "the device alone"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Says what to take on one link.

    `saves_s` is what `take` saves against the other of the two, with half its 95 % interval.
    """

    trace: str
    take: tuple[str, ...]  # one contender, or the two between which nothing can be told
    ours: Summary
    fixed: Summary
    saves_s: float
    half_s: float
    baselines: tuple[tuple[str, float], ...]  # name for people, mean seconds

    @property
    def sentence(self) -> str:
        """Returns the conclusion, with its numbers, as a person would say it."""
        ours, fixed = self.ours, self.fixed
        saved = self._saved()
        figures = (
            f"the adaptive policy answers in {number(ours.mean_s)} s on average (95 % within {number(ours.p95_s)} s, "
            f"{_points(ours)} of accuracy lost), the best fixed plan, {fixed.contender}, in "
            f"{number(fixed.mean_s)} s (95 % within {number(fixed.p95_s)} s, {_points(fixed)})"
        )
        if len(self.take) == 2:
            return f"Take the adaptive policy or {fixed.contender}: {figures}. {self._why_both()}"
        if self.take == (OURS,):
            return f"Take the adaptive policy: {figures}. It saves {percent(self.saves_s / fixed.mean_s)} ({saved})."
        return (
            f"Take {fixed.contender}: {figures}. It saves {percent(self.saves_s / ours.mean_s)} ({saved}), but was chosen "
            "in hindsight: whoever does not know the link beforehand cannot choose it."
        )

    @property
    def in_short(self) -> str:
        """Returns the verdict in short: `take adaptive: 12 % ± 3 % less time than image/webp50xs`."""
        if len(self.take) == 2:
            return f"take {' or '.join(self.take)}: no difference that can be told or matters{self._beside()}"
        other = self.fixed if self.take == (OURS,) else self.ours
        share, half = self.saves_s / other.mean_s, self.half_s / other.mean_s
        return (
            f"take {self.take[0]}: {percent(share)} ± {percent(half)} less time than {other.contender}{self._beside()}"
        )

    def _beside(self) -> str:
        """Returns what the better of the two saves against each baseline that is slower."""
        best_s = min(self.ours.mean_s, self.fixed.mean_s)
        slower = [(words, seconds) for words, seconds in self.baselines if seconds > (1 + MATTERS) * best_s]
        return "".join(f"; {percent(1 - best_s / seconds, 0)} less than {words}" for words, seconds in slower)

    def _saved(self) -> str:
        return f"{number(self.saves_s, 2)} ± {number(self.half_s, 2)} s a question"

    def _why_both(self) -> str:
        if self.saves_s < NOTHING_S:
            return "They do not differ here."
        if math.isinf(self.half_s):
            return f"{self.ours.requests} questions are too few to tell them apart."
        if self.saves_s <= MATTERS * self.ours.mean_s:
            return f"They differ by less than {percent(MATTERS, 0)} ({self._saved()})."
        return f"{self.ours.requests} questions cannot tell them apart ({self._saved()})."


def _points(summary: Summary) -> str:
    drop = summary.accuracy_drop
    return "an unknown number of points" if drop is None else f"{number(100 * drop, 2)} points"


def fixed_plans(comparison: Comparison) -> list[Summary]:
    """Returns the contenders that keep one plan, alone or with the device beside it: what a user could set by hand."""
    return [summary for summary in comparison.summaries if "/" in summary.contender]


def verdict(comparison: Comparison) -> Verdict | None:
    """Returns the conclusion over one trace; None where the scenario left the comparison out."""
    fixed = min(fixed_plans(comparison), key=lambda summary: summary.mean_s, default=None)
    if fixed is None:
        return None
    ours = comparison.of(OURS)
    runs = {run.contender: run for run in comparison.runs}
    gain_s, half_s = difference(runs[fixed.contender], runs[OURS])
    take: tuple[str, ...] = (OURS, fixed.contender)
    if abs(gain_s) > max(half_s, MATTERS * ours.mean_s):
        take = (OURS,) if gain_s > 0 else (fixed.contender,)
    known = {summary.contender: summary.mean_s for summary in comparison.summaries}
    baselines = tuple((words, known[name]) for name, words in BASELINES.items() if name in known)
    return Verdict(Path(comparison.trace).name, take, ours, fixed, abs(gain_s), half_s, baselines)


def difference(run: Run, other: Run) -> tuple[float, float]:
    """Returns by how many seconds a request of `run` takes longer, on average, and half of the 95 % interval of that."""
    pairs = sorted(
        (run.arrival_s[a], run.latency_s[a] - other.latency_s[b])
        for a, b in zip(_in_order(run), _in_order(other), strict=True)
    )
    if len(pairs) < 2 * BLOCKS:
        return mean(gap for _, gap in pairs), math.inf
    bounds = [len(pairs) * block // BLOCKS for block in range(BLOCKS + 1)]
    means = [mean(gap for _, gap in pairs[low:high]) for low, high in pairwise(bounds)]
    return mean(gap for _, gap in pairs), T_95 * stdev(means) / math.sqrt(BLOCKS)


def _in_order(run: Run) -> list[int]:
    """Sorts rows by device and arrival: the same request has the same place in every run."""
    return sorted(range(len(run.arrival_s)), key=lambda row: (run.device[row], run.arrival_s[row]))


def over_all(comparisons: Sequence[Comparison]) -> str:
    """Returns which one fixed plan would serve all links best, beside the adaptive policy; empty for a single link."""
    if len(comparisons) < 2 or not all(map(fixed_plans, comparisons)):
        return ""
    means = {
        name: mean(comparison.of(name).mean_s for comparison in comparisons)
        for name in [OURS, *(summary.contender for summary in fixed_plans(comparisons[0]))]
    }
    ours_s = means.pop(OURS)
    name, fixed_s = min(means.items(), key=lambda item: item[1])
    figures = (
        f"Over all {len(comparisons)} links together, each weighing the same: {number(ours_s)} s by the adaptive policy, "
        f"{number(fixed_s)} s by {name}, the one fixed plan that does best over them"
    )
    if abs(ours_s - fixed_s) <= MATTERS * ours_s:
        return f"{figures}: no difference that matters."
    better = "the adaptive policy" if ours_s < fixed_s else name
    return f"{figures}. Where the link is not known beforehand, take {better}."
