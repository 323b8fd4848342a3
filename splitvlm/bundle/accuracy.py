"""The answers that plans lose, as `splitvlm evaluate --plans` measures them. Drops are shares of answers: 0.01 is one point."""

from __future__ import annotations

from pathlib import Path

from splitvlm.bundle.figures import Row, read_figures
from splitvlm.domain import Plan
from splitvlm.planning.kinds import AccuracyDrop, KindTally, worst_kind
from splitvlm.planning.numbers import number, whole


def read_accuracy(path: Path | None, calibration: str) -> dict[Plan, AccuracyDrop]:
    """Returns the drops of the plans in a bundle's file. Raises UsageError for what `splitvlm evaluate` cannot have written."""
    return read_figures(path, "accuracy", "evaluate MODEL --plans", calibration, _drop_of)


def _drop_of(plan: str, row: Row) -> AccuracyDrop:
    tallies = {
        kind: KindTally(**{name: whole(count, f"{plan}, {kind}: {name}") for name, count in counts.items()})
        for kind, counts in row.get("kinds", {}).items()
    }
    return AccuracyDrop(number(row["drop"], f"The drop of {plan}", most=1.0), worst_kind(tallies))


def larger_sample(old: Row | None, new: Row) -> Row:
    """Returns the row of more questions, the new one of as many, with the larger sample of each kind of question."""
    if old is None:
        return new
    row = new if new["questions"] >= old["questions"] else old
    return {**row, "kinds": _larger_kinds(old, new)}


def kinds_alone(old: Row | None, new: Row) -> Row | None:
    """Returns the old row with the new counts by kind; its means stay, for they are over questions as they come."""
    return None if old is None else {**old, "kinds": _larger_kinds(old, new)}


def _larger_kinds(old: Row, new: Row) -> dict[str, Row]:
    kinds = dict(old.get("kinds", {}))
    for kind, counts in new["kinds"].items():
        kinds[kind] = max(counts, kinds.get(kind, counts), key=lambda tally: int(tally["questions"]))
    return kinds
