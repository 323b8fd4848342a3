"""The plan table: the cost lines that are allowed and not dominated. Frozen, versioned; the device picks from it.

A line is dominated when another one is at most as high in every coefficient of the cost line: then it is never strictly
the best, whatever the uplink rate, the round-trip time and the number of tokens. Of the rest, only the lower envelope
stays: lines that are the fastest at some uplink rate, for some of a grid of round-trip times and lengths of answer. The
device's own lines are held apart from the cloud's: they are the way out of an outage, and a hedge takes the best of both
kinds.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from splitvlm.domain import Plan
from splitvlm.planning.costs import CostLine
from splitvlm.planning.limits import PlanLimits, nothing_left

GRID_RTT_S = (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
GRID_TOKENS = (0, 1, 2, 4, 8, 16, 64, 256)
ROUNDING = 1e-12  # rates that differ by no more are one


@dataclass(frozen=True, slots=True)
class PlanTable:
    """Holds plans that the device may pick from. `version` grows with every table that the orchestrator makes."""

    version: int
    lines: tuple[CostLine, ...]

    def best(self, uplink_bps: float, rtt_s: float, n_tokens: int) -> CostLine:
        """Returns the line of least latency; the first of equals."""
        return min(self.lines, key=lambda line: line.latency_s(uplink_bps, rtt_s, n_tokens))


def build_table(lines: Sequence[CostLine], limits: PlanLimits, version: int) -> PlanTable:
    """Drops what is forbidden, then what is dominated. Raises ConfigError naming the limits when nothing is left."""
    allowed = [line for line in lines if not limits.forbidding(line)]
    if not allowed:
        raise nothing_left(lines, limits)
    return PlanTable(version, _envelope(_undominated(allowed)))


def dominates(line: CostLine, other: CostLine) -> bool:
    """Returns whether `line` is at most as slow as `other` on every link and for every length of answer."""
    return all(map(operator.le, _coefficients(line), _coefficients(other)))


def _coefficients(line: CostLine) -> tuple[float, ...]:
    """Returns all that the line grows with; a cloud's distance counts only where a trip is paid."""
    far_s = line.cloud_rtt_s
    return (
        line.fixed_s + line.trips * far_s,
        line.payload_bytes,
        line.trips,
        line.token_s + line.trips_per_token * far_s,
        line.token_bytes,
        line.trips_per_token,
    )


def _envelope(lines: tuple[CostLine, ...]) -> tuple[CostLine, ...]:
    """Returns the lines that are the fastest of their kind (cloud, device) at any rate, at the grid's other numbers."""
    best: set[tuple[Plan, str]] = set()
    for local in (True, False):
        alike = [line for line in lines if line.local is local]
        for rtt_s, n_tokens in product(GRID_RTT_S, GRID_TOKENS):
            best |= {line.key for _, line in envelope(alike, rtt_s, n_tokens)}
    return tuple(line for line in lines if line.key in best)


def envelope(lines: Sequence[CostLine], rtt_s: float, n_tokens: int) -> list[tuple[float, CostLine]]:
    """Returns which line is the fastest at which rate: (highest uplink_bps of its span, line), from fast links to slow ones.

    The first span begins at infinity. Exact: latency is linear in 1 / uplink_bps, so this is the lower hull of lines, by
    Graham's scan. A table of many lines must not cost much more than one of few: peers say how many there are.
    """
    costs = ((line.latency_s(math.inf, rtt_s, n_tokens), line.bits_of(n_tokens), line) for line in lines)
    hull: list[
        tuple[float, float, int, CostLine]
    ] = []  # 1 / rate from which the line is the fastest, fixed_s, bits, line
    for fixed_s, bits, line in sorted(costs, key=lambda cost: cost[:2]):
        if hull and bits >= hull[-1][2]:
            continue  # another line is as fast on endless links, and sends no more
        per_bps = 0.0
        while hull:
            begins, other_s, other_bits, _ = hull[-1]
            per_bps = (fixed_s - other_s) / (other_bits - bits)
            if per_bps > begins * (1 + ROUNDING):
                break
            hull.pop()  # the fastest at no rate, or at a single one
        hull.append((per_bps, fixed_s, bits, line))
    return [(1 / per_bps if per_bps else math.inf, line) for per_bps, _, _, line in hull]


def deciding_rates(lines: Sequence[CostLine], rtt_s: float, n_tokens: int) -> tuple[float, ...]:
    """Returns the uplink rates at which another line becomes the fastest, falling."""
    return tuple(bps for bps, _ in envelope(lines, rtt_s, n_tokens)[1:])


def _undominated(lines: list[CostLine]) -> tuple[CostLine, ...]:
    """Returns the lines that no other dominates. Of equals the more accurate stays, one whose accuracy is known.

    Lines come by rising cost, so that a line's dominator is already kept.
    """
    kept: list[tuple[tuple[float, ...], CostLine]] = []
    for numbers, line in sorted(
        ((_coefficients(line), line) for line in lines), key=lambda item: (item[0], _accuracy_order(item[1]))
    ):
        if not any(all(map(operator.le, others, numbers)) for others, _ in kept):
            kept.append((numbers, line))
    return tuple(sorted((line for _, line in kept), key=lambda line: (line.plan.cut.depth, line.payload_bytes)))


def _accuracy_order(line: CostLine) -> float:
    """Sorts lines by what they lose; what is unknown comes last."""
    return math.inf if line.accuracy_drop is None else line.accuracy_drop
