"""Picks the plan of the next request from the table and the link. Decides only; it has no clock and measures nothing.

- Where the device can answer alone and hedging is allowed, the device starts beside the plan that uses the cloud, which
  answers from its first token on unless the device has finished by then. What counts is then the expected smaller of
  both times, over the forecast of the link: an outage costs no more than the device's own time.
- Without a hedge it compares plans at the conservative end of the estimate (robustMPC: Yin et al., SIGCOMM 2015), for what
  is lost by a slow transfer is more than what is won by a fast one.
- It changes its plan only for a gain that exceeds the margin, and the margin grows with the predictor's error: within
  the error two plans cannot be told apart, and changing between them is noise. It keeps a plan for a dwell at
  least, except for one that is much better.
- With the cloud away it answers `device`, and picks afresh when the cloud is back.

A pick from 20 lines takes at most 50 microseconds: `pytest -s tests/unit/planning/test_policy.py -k time` prints it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from splitvlm.domain import Plan
from splitvlm.planning.costs import CostLine
from splitvlm.planning.energy import EnergyModel
from splitvlm.planning.table import PlanTable

MARGIN = 0.02  # gains below 2 % are within the noise of measured stage times
MARGIN_PER_SPREAD = 0.02  # both plans share most of the link's error; a quarter of it may fall between them
MAX_MARGIN = 0.2  # below 1 - 1 / VASTLY, so that a vastly better plan always passes
VASTLY = 1.25  # a plan that is so many times faster does not wait for the dwell
MIN_DWELL_S = 2.0  # a few requests, and below the 5 s in which the plan must follow the link
SLACK = 0.09  # of plans that are so nearly as fast, the one with the fewest bytes: it varies less, and costs less
STEADY_SLACK = (
    0.02  # but next to nothing where it is the slower one in the tail of the forecast, too: it steadies nothing then
)
SLACK_OF_GAIN = 0.25  # of what a cloud plan saves beside the device's own time: so much may go for fewer bytes
WORTH_HEDGING = 0.02  # a cloud plan that shortens the device's time by less is not worth its bytes
SECONDS_A_DAY = 86_400.0
BUDGET_BURST_S = 3_600.0  # an hour's share of the daily bytes may be spent at once

_Points = Sequence[tuple[float, float, float]]
"""Weight, uplink_bps, wait_s of the links that stand for the next transfer."""


class _Links(NamedTuple):
    """Holds the links that stand for the next transfer, and their means: a plan's time is linear in its bits."""

    points: _Points
    rtt_s: float
    bit_s: float  # mean seconds a bit
    wait_s: float  # mean
    slowest_bit_s: float
    longest_wait_s: float
    tail_bit_s: float  # of one transfer in twenty


class LinkView(NamedTuple):
    """Holds what the policy knows of the link: plain numbers of an estimate."""

    uplink_bps: float
    rtt_s: float
    spread: float  # relative error of the estimate, 0.2 is 20 %
    peak_bps: float = 0.0  # the best of the last minutes: what the link may be again at any moment
    forecast: Sequence[
        tuple[float, float, float]
    ] = ()  # weight, uplink_bps, wait_s of the next transfer's distribution
    tail_bps: float = 0.0  # one transfer in twenty is slower


@dataclass(frozen=True, slots=True)
class Objective:
    """Says what is made least: weighted seconds and joules. (1, 0) is latency alone, (0, 1) energy alone."""

    latency_weight: float = 1.0
    energy_weight_per_j: float = 0.0


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """Holds what a policy picks by, beside the table and the link."""

    objective: Objective = Objective()
    energy: EnergyModel = field(default_factory=EnergyModel)
    hedging: bool = True
    deadline_s: float | None = None
    bytes_per_day: float | None = None
    margin: float = MARGIN  # share of the current plan's cost that another plan must save
    min_dwell_s: float = MIN_DWELL_S  # that a plan is kept at least


USUAL_OPTIONS = PolicyOptions()


class Choice(NamedTuple):
    """Holds the plan to use, or None when the cloud is away and the device cannot answer alone."""

    plan: Plan | None
    predicted_s: float  # to the last token, at the estimate itself
    conservative_s: float  # the same at the estimate's conservative end: deadlines build on it
    reason: str
    cloud: str = ""
    hedge_after_s: float | None = None  # start `device` beside the plan after so long without a token; None: do not


class Budget:
    """Holds bytes that may be sent, filled at the daily rate: an hour's share may be spent at once. Without a limit, all."""

    __slots__ = ("_at_s", "_rate", "_room")

    def __init__(self, bytes_per_day: float | None) -> None:
        self._rate = bytes_per_day / SECONDS_A_DAY if bytes_per_day is not None else math.inf
        self._room = self._rate * BUDGET_BURST_S
        self._at_s = -math.inf

    def room(self, now_s: float) -> float:
        """Returns the bytes that may be sent now."""
        if now_s > self._at_s:
            if self._at_s > -math.inf:
                grown = self._room + self._rate * (now_s - self._at_s)
                self._room = min(grown, self._rate * BUDGET_BURST_S)
            self._at_s = now_s
        return self._room

    def spent(self, n_bytes: float, now_s: float) -> None:
        self._room = self.room(now_s) - n_bytes


class _Row(NamedTuple):
    """Holds a line for one length of answer: what is left is two divisions."""

    line: CostLine
    key: str  # of the line: strings are compared faster than plans
    fixed_s: float
    bits: int
    trips: int
    compute_s: float
    tail_s: float  # of `fixed_s`: what comes after the first token
    tail_trips: int


class _Rows(NamedTuple):
    table: PlanTable
    n_tokens: int
    remote: tuple[_Row, ...]
    local: _Row | None  # the fastest
    most_bits: int


class Policy:
    """Remembers the plan in use and since when. One object a device."""

    def __init__(self, options: PolicyOptions = USUAL_OPTIONS) -> None:
        self._objective = options.objective
        self._energy = options.energy
        self._latency_only = self._objective.energy_weight_per_j == 0
        self._hedging = options.hedging
        self._deadline_s = math.inf if options.deadline_s is None else options.deadline_s
        self._budget = Budget(options.bytes_per_day)
        self._margin = options.margin
        self._min_dwell_s = options.min_dwell_s
        self._key: str | None = None
        self._since_s = -math.inf
        self._rows: _Rows | None = None

    def spent(self, n_bytes: float, now_s: float) -> None:
        """Books bytes that a request or a probe has sent against the daily limit."""
        self._budget.spent(n_bytes, now_s)

    def pick(
        self, table: PlanTable, link: LinkView, n_tokens: int, now_s: float, *, cloud_reachable: bool = True
    ) -> Choice:
        """Returns the plan for a request of about `n_tokens` tokens that starts now."""
        rows = self._rows
        if rows is None or rows.table is not table or rows.n_tokens != n_tokens:
            rows = self._rows = _prepare(table, n_tokens)
        if not cloud_reachable:
            return self._alone(rows, "the cloud is away")
        remote: Sequence[_Row] = rows.remote
        room = self._budget.room(now_s)
        if 8 * room < rows.most_bits:
            remote = [row for row in remote if row.bits <= 8 * room]
            if not remote and rows.remote:
                return self._alone(rows, "bytes_per_day is used up for now")
        return self._best(rows, remote, link, now_s)

    def _best(self, rows: _Rows, remote: Sequence[_Row], link: LinkView, now_s: float) -> Choice:
        local = rows.local
        if local is None or not (self._hedging and self._latency_only):
            candidates = remote if local is None else [local, *remote]  # fewest bytes first
            row, _, reason = self._settle(candidates, _slow(link), math.inf, link.spread, now_s)
            return self._choice(row, local, link, reason)
        if remote:
            row, _, reason = self._settle(remote, _around(link), local.fixed_s, link.spread, now_s)
            best_bps = max(link.peak_bps, link.uplink_bps * (1 + link.spread))
            worth_s = (1 - WORTH_HEDGING) * local.fixed_s
            if any(row.fixed_s + row.bits / best_bps + row.trips * link.rtt_s <= worth_s for row in remote):
                return self._choice(row, local, link, reason)
        # Changing to the device and back needs no margin and no dwell: a hedge is never slower than the device.
        return self._choice(local, local, link, "no cloud plan would be faster")

    def _settle(
        self,
        candidates: Sequence[_Row],
        links: _Links,
        other_s: float,
        spread: float,
        now_s: float,
    ) -> tuple[_Row, float, str]:
        """Returns the row to use, the least cost of all, and why."""
        best, best_cost, current, current_cost = candidates[0], math.inf, None, math.inf
        for row in candidates:
            cost = self._cost(row, links, other_s)
            if cost < best_cost - _slack(best, best_cost, row, links, other_s):
                best, best_cost = row, cost
            if row.key == self._key:
                current, current_cost = row, cost
        if current is best:
            return best, best_cost, "still the best"
        reason = "the best, picked afresh"
        if current is not None:
            kept = self._reason_to_keep(best_cost, current_cost, spread, now_s)
            if kept:
                return current, best_cost, kept
            reason = f"{current_cost / best_cost:.2f} x better than {current.line.plan}"
        self._key, self._since_s = best.key, now_s
        return best, best_cost, reason

    def _cost(self, row: _Row, links: _Links, other_s: float) -> float:
        """Returns weighted seconds and joules, the mean over links; another run beside it is done after `other_s`."""
        _, _, fixed_s, bits, trips, compute_s, tail_s, tail_trips = row
        points, rtt_s, bit_s, mean_wait_s, slowest_bit_s, longest_wait_s, _ = links
        fixed_s += trips * rtt_s
        first_within_s = other_s + tail_s + tail_trips * rtt_s  # the cloud answers from its first token on
        waits = 1.0 if bits else 0.0  # a plan that sends nothing waits for nothing
        at_most_s = fixed_s + bits * slowest_bit_s + waits * longest_wait_s
        if self._latency_only and at_most_s < first_within_s and at_most_s <= self._deadline_s:
            return fixed_s + bits * bit_s + waits * mean_wait_s
        total = 0.0
        for weight, uplink_bps, wait_s in points:
            send_s = bits / uplink_bps
            row_s = fixed_s + send_s + waits * wait_s
            seconds = row_s if row_s < first_within_s else other_s
            if seconds > self._deadline_s:
                total += weight * _LATE * (seconds - self._deadline_s)
            if self._latency_only:
                total += weight * seconds
                continue
            idle_s = max(0.0, row_s - compute_s - send_s)
            joules = self._energy.joules(compute_s, send_s, idle_s, bits)
            total += weight * (self._objective.latency_weight * seconds + self._objective.energy_weight_per_j * joules)
        return total

    def _reason_to_keep(self, best: float, current: float, spread: float, now_s: float) -> str:
        """Returns why the current plan stays although another one is better; empty when it should not."""
        if current > VASTLY * best:
            return ""
        margin = min(self._margin + MARGIN_PER_SPREAD * spread, MAX_MARGIN)
        if best > (1 - margin) * current:
            return "kept: the gain is within the margin"
        if now_s - self._since_s < self._min_dwell_s:
            return "kept: changed a moment ago"
        return ""

    def _choice(self, row: _Row, local: _Row | None, link: LinkView, reason: str) -> Choice:
        uplink_bps, rtt_s, spread = link[:3]
        slow = 1 + spread
        predicted_s = row.fixed_s + row.bits / uplink_bps + row.trips * rtt_s
        conservative_s = row.fixed_s + (row.bits / uplink_bps + row.trips * rtt_s) * slow
        hedge_after_s = None
        if self._hedging and local is not None and row is not local:
            hedge_after_s = self._hedge_after_s(local.fixed_s, conservative_s)
        if hedge_after_s is not None and local is not None:
            predicted_s = min(predicted_s, hedge_after_s + local.fixed_s)
            conservative_s = min(conservative_s, hedge_after_s + local.fixed_s)
        return Choice(row.line.plan, predicted_s, conservative_s, reason, row.line.cloud, hedge_after_s)

    def _hedge_after_s(self, local_s: float, conservative_s: float) -> float:
        """Returns when to hedge, in s: at once where only time counts, else when the cloud is late or the deadline presses."""
        if self._latency_only:
            return 0.0
        return min(conservative_s, max(0.0, self._deadline_s - local_s))

    def _alone(self, rows: _Rows, reason: str) -> Choice:
        self._key = None
        if rows.local is None:
            return Choice(None, math.inf, math.inf, f"{reason}, and no allowed plan runs on the device alone")
        return Choice(rows.local.line.plan, rows.local.fixed_s, rows.local.fixed_s, reason)


_LATE = 100.0  # what each second beyond the deadline costs: more than any energy saved


def _prepare(table: PlanTable, n_tokens: int) -> _Rows:
    rows = sorted((_row(line, n_tokens) for line in table.lines), key=lambda row: row.bits)
    local = min((row for row in rows if row.line.local), key=lambda row: row.fixed_s, default=None)
    remote = tuple(row for row in rows if not row.line.local)
    return _Rows(table, n_tokens, remote, local, max((row.bits for row in remote), default=0))


def _row(line: CostLine, n_tokens: int) -> _Row:
    trips = line.trips_of(n_tokens)
    fixed_s = line.fixed_s + n_tokens * line.token_s + trips * line.cloud_rtt_s
    compute_s = line.device_s + line.encode_s + (n_tokens * line.token_s if line.local else 0.0)
    tail_s = n_tokens * (line.token_s + line.trips_per_token * line.cloud_rtt_s)
    key = f"{line.plan} {line.cloud}"
    return _Row(line, key, fixed_s, line.bits_of(n_tokens), trips, compute_s, tail_s, n_tokens * line.trips_per_token)


def _slack(fewer: _Row, cost: float, more: _Row, links: _Links, other_s: float) -> float:
    """Returns the weighted seconds that may be given away for the first row's fewer bytes."""
    if cost == math.inf:
        return 0.0
    slower = more.fixed_s - fewer.fixed_s + (more.bits - fewer.bits) * links.tail_bit_s > 0
    share = SLACK if slower else STEADY_SLACK
    return max(0.0, min(share * cost, SLACK_OF_GAIN * (other_s - cost)))


def _slow(link: LinkView) -> _Links:
    """Returns the link at the conservative end of its spread or forecast: a mean of times lies at its slow end."""
    wide = 1 + link.spread
    if link.forecast:
        return _links(link.forecast, link.rtt_s, link.tail_bps)
    return _links(((1.0, link.uplink_bps / wide, 0.0),), link.rtt_s * wide)


def _around(link: LinkView) -> _Links:
    """Returns the links that stand for the spread: as far below the estimate, in the logarithm, as above it."""
    uplink_bps, rtt_s, spread = link[:3]
    if link.forecast:
        return _links(link.forecast, rtt_s, link.tail_bps)
    wide = 1 + spread
    points = (0.3, uplink_bps / wide, rtt_s * spread), (0.4, uplink_bps, 0.0), (0.3, uplink_bps * wide, 0.0)
    return _links(points, rtt_s)


def _links(points: _Points, rtt_s: float, tail_bps: float = 0.0) -> _Links:
    bit_s = mean_wait_s = longest_wait_s = 0.0
    slowest_bps = math.inf
    for weight, uplink_bps, wait_s in points:
        bit_s += weight / uplink_bps
        mean_wait_s += weight * wait_s
        if uplink_bps < slowest_bps:
            slowest_bps = uplink_bps
        if wait_s > longest_wait_s:
            longest_wait_s = wait_s
    return _Links(points, rtt_s, bit_s, mean_wait_s, 1 / slowest_bps, longest_wait_s, 1 / (tail_bps or slowest_bps))
