"""Picks the plan of the next request from the table and the link. Decides only; it has no clock and measures nothing.

- It compares plans at the conservative end of the link estimate (robustMPC: Yin et al., SIGCOMM 2015), for what is
  lost by a slow transfer is more than what is won by a fast one.
- It changes its plan only for a gain that exceeds the margin, and the margin grows with the predictor's error: within
  the error two plans cannot be told apart, and changing between them is noise. It keeps a plan for a dwell at
  least, except for one that is much better.
- With the cloud away it answers `device`, and picks afresh when the cloud is back.

A pick from 20 lines takes at most 50 microseconds: `pytest -s tests/unit/test_planning_policy.py -k time` prints it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from splitvlm.domain import DEVICE, Plan
from splitvlm.planning.costs import CostLine
from splitvlm.planning.table import PlanTable

MARGIN = 0.05  # gains below 5 % are within the noise of measured stage times
MARGIN_PER_SPREAD = 0.25  # both plans share most of the link's error; a quarter of it may fall between them
MAX_MARGIN = 0.4  # below 1 - 1 / VASTLY, so that a vastly better plan always passes
VASTLY = 2.0  # a plan that is so many times faster does not wait for the dwell
MIN_DWELL_S = 2.0  # a few requests, and below the 5 s in which the plan must follow the link


class LinkView(NamedTuple):
    """What the policy knows of the link: plain numbers of an estimate."""

    uplink_bps: float
    rtt_s: float
    spread: float  # relative error of the estimate, 0.2 is 20 %


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan to use, or None when the cloud is away and the device cannot answer alone."""

    plan: Plan | None
    predicted_s: float  # to the last token, at the estimate itself
    conservative_s: float  # the same at the estimate's conservative end: deadlines build on it
    reason: str


class Policy:
    """Remembers the plan in use and since when. One object a device."""

    def __init__(self, *, margin: float = MARGIN, min_dwell_s: float = MIN_DWELL_S) -> None:
        self._margin = margin
        self._min_dwell_s = min_dwell_s
        self._plan: Plan | None = None
        self._since_s = -math.inf

    def pick(
        self, table: PlanTable, link: LinkView, n_tokens: int, now_s: float, *, cloud_reachable: bool = True
    ) -> Choice:
        """The plan for a request of about `n_tokens` tokens that starts now."""
        if not cloud_reachable:
            return self._without_cloud(table, link, n_tokens)
        uplink_bps, rtt_s, spread = link
        slow_bps, slow_rtt_s = uplink_bps / (1 + spread), rtt_s * (1 + spread)
        current, best, best_s = None, table.lines[0], math.inf
        for line in table.lines:
            line_s = line.latency_s(slow_bps, slow_rtt_s, n_tokens)
            if line_s < best_s:
                best, best_s = line, line_s
            if line.plan == self._plan:
                current, current_s = line, line_s
        if current is None:
            return self._take(best, best_s, link, n_tokens, now_s, "the best, picked afresh")
        if best is current:
            return _choice(current, current_s, link, n_tokens, "still the best")
        kept = self._reason_to_keep(best_s, current_s, spread, now_s)
        if kept:
            return _choice(current, current_s, link, n_tokens, kept)
        return self._take(best, best_s, link, n_tokens, now_s, f"{current_s / best_s:.2f} x faster than {current.plan}")

    def _reason_to_keep(self, best_s: float, current_s: float, spread: float, now_s: float) -> str:
        """Why the current plan stays although another one is faster; empty when it should not."""
        if current_s > VASTLY * best_s:
            return ""
        margin = min(self._margin + MARGIN_PER_SPREAD * spread, MAX_MARGIN)
        if best_s > (1 - margin) * current_s:
            return "kept: the gain is within the margin"
        if now_s - self._since_s < self._min_dwell_s:
            return "kept: changed a moment ago"
        return ""

    def _take(self, line: CostLine, line_s: float, link: LinkView, n_tokens: int, now_s: float, reason: str) -> Choice:
        self._plan, self._since_s = line.plan, now_s
        return _choice(line, line_s, link, n_tokens, reason)

    def _without_cloud(self, table: PlanTable, link: LinkView, n_tokens: int) -> Choice:
        self._plan = None
        lines = [line for line in table.lines if line.plan.cut == DEVICE]
        if not lines:
            return Choice(None, math.inf, math.inf, "the cloud is away, and no allowed plan runs on the device alone")
        line = min(lines, key=lambda line: line.latency_s(link.uplink_bps, link.rtt_s, n_tokens))
        line_s = line.latency_s(link.uplink_bps, link.rtt_s, n_tokens)
        return _choice(line, line_s, link, n_tokens, "the cloud is away")


def _choice(line: CostLine, conservative_s: float, link: LinkView, n_tokens: int, reason: str) -> Choice:
    predicted_s = line.latency_s(link.uplink_bps, link.rtt_s, n_tokens)
    return Choice(line.plan, predicted_s, conservative_s, reason)
