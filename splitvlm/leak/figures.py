"""Leaks as measured, for plans: `leak.json` beside a model's weights, as `splitvlm leak MODEL --json leak.json` writes it.

A plan's leak is the share of questions that an attacker's reconstruction still answers, on a scale whose 0 is a blank picture
and whose 1 is the picture itself. The device reads its own file: how private a plan is must not be for a peer to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from splitvlm.domain import Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.model.loading import model_file
from splitvlm.planning.costs import Coding
from splitvlm.planning.numbers import number
from splitvlm.textfiles import read_json

FILE = "leak.json"


def read_leaks(name: str) -> dict[Plan, float]:
    """What was measured for this model, or nothing where it was not: unknown leaks count as all of the picture.

    Raises UsageError for a file that `splitvlm leak` cannot have written.
    """
    file = model_file(name, FILE)
    if file is None:
        return {}
    advice = "Measure again: `splitvlm leak MODEL --json` writes it."
    report = read_json(file, "leaks", advice=advice)
    try:
        return scaled(report)
    except UsageError as error:
        raise UsageError(f"{file} holds no leaks: {error.sentence}", advice=advice) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} holds no leaks: its floor or rows are missing.", advice=advice) from error


def scaled(report: Mapping[str, Any]) -> dict[Plan, float]:
    """From what `splitvlm leak` reports: shares above the blank picture's. Raises UsageError for what is no share."""
    floor = number(report["floor"], "The floor", most=1.0)
    if floor == 1.0:
        raise UsageError("The floor is 1: a blank picture answered every question, so nothing was measured.")
    leaks: dict[Plan, float] = {}
    for row in report["rows"]:
        plan = Plan(Cut.parse(str(row["cut"])), str(row["level"]))
        if plan in leaks:
            raise UsageError(f"{plan} stands twice.")
        answered = number(row["answered"], f"What {plan} answers", most=1.0)
        leaks[plan] = max(0.0, (answered - floor) / (1 - floor))
    return leaks


def leaks_of(codings: Iterable[Coding], measured: Mapping[Plan, float]) -> dict[Coding, float]:
    """The leak of each cut and level that was measured; what is missing is unknown, and counts as all where leaks are limited.

    What can be computed from what is sent leaks no more than it (data processing): so a lossless boundary leaks at least what
    was measured at its other levels and at deeper cuts.
    """
    found = {}
    for cut, level in codings:
        leak = measured.get(Plan(cut, level))
        if leak is not None and level == "lossless":
            leak = max(other for plan, other in measured.items() if plan.cut.depth >= cut.depth)
        if leak is not None:
            found[cut, level] = leak
    return found
