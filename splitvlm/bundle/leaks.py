"""Reads and merges the leaks that `splitvlm leak` measures: 0 is what a blank picture tells, 1 what the picture itself does.

A plan's leak is the share of questions that an attacker's reconstruction still answers, scaled so that a blank picture's share
is 0. The device reads its own file: how private a plan is must not be for a peer to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from splitvlm.bundle.figures import Row, read_figures
from splitvlm.domain import Plan
from splitvlm.errors import UsageError
from splitvlm.planning.numbers import number


def read_leaks(path: Path | None, calibration: str) -> dict[Plan, float]:
    """Returns the leaks of the plans in a bundle's file. Raises UsageError for what `splitvlm leak` cannot have written."""
    return read_figures(path, "leaks", "leak MODEL", calibration, _leak_of)


def _leak_of(plan: str, row: Row) -> float:
    """Returns the share above the blank picture's. Raises UsageError for what is no share."""
    floor = number(row["floor"], "The floor", most=1.0)
    if floor == 1.0:
        raise UsageError("The floor is 1: a blank picture answered every question, so nothing was measured.")
    answered = number(row["answered"], f"What {plan} answers", most=1.0)
    return max(0.0, (answered - floor) / (1 - floor))


def stronger_attack(old: Row | None, new: Row) -> Row:
    """Returns the new row, unless its attacker learned from fewer pictures, or was judged by fewer questions, than the old."""
    weaker = old is not None and any(new[size] < old[size] for size in ("training", "questions"))
    return old if old is not None and weaker else new


def leaks_of(plans: Iterable[Plan], measured: Mapping[Plan, float]) -> dict[Plan, float]:
    """Returns the leak of each plan that was measured; what is missing is unknown.

    What can be computed from what is sent leaks no more than it (data processing): so a lossless boundary leaks at least what
    was measured at its other levels and at deeper cuts of its variant.
    """
    leaks = {}
    for plan in plans:
        leak = measured.get(plan)
        if leak is not None and plan.level == "lossless":
            leak = max(
                other_leak
                for other, other_leak in measured.items()
                if other.variant == plan.variant and other.cut.depth >= plan.cut.depth
            )
        if leak is not None:
            leaks[plan] = leak
    return leaks
