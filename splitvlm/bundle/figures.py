"""The form of a bundle's files of figures: a row for each plan, and the calibration that the plans had when they were measured.

    {"calibration": SHA-256 of calibration.safetensors, empty without one, "plans": {"tokens/klt3": {...}, ...}}

Rows of calibrated levels count only beside the calibration that they were measured with: learned anew, the levels are others,
and what they lose and leak is unknown until it is measured again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from splitvlm.codec.levels import KLT_STEPS
from splitvlm.domain import Plan
from splitvlm.errors import UsageError
from splitvlm.files.text import read_json

V = TypeVar("V")
Row = Mapping[str, Any]
Combine = Callable[[Row | None, Row], Row | None]
"""From the row that a file has of a plan and the new one: the row that it gets; None leaves the plan out."""

ACCURACY_FILE = "accuracy.json"
LEAK_FILE = "leak.json"
_log = logging.getLogger("splitvlm.bundle")


def read_figures(
    path: Path | None, content: str, verb: str, calibration: str, parse: Callable[[str, Row], V]
) -> dict[Plan, V]:
    """Returns the figure of each plan in a file; empty where there is none.

    `content` and `verb` name in errors what it holds and what writes it. Raises UsageError where it does not hold that.
    """
    if path is None:
        return {}
    advice = f"Remove it and measure again: `splitvlm {verb}` writes it."
    report = read_json(path, content, advice=advice)
    try:
        figures: dict[Plan, V] = {}
        for text, row in _valid_rows(path, report, calibration).items():
            plan = Plan.parse(text)
            if plan in figures:
                raise UsageError(f"{plan} stands twice.")
            figures[plan] = parse(text, row)
        return figures
    except UsageError as error:
        raise UsageError(f"{path} holds no {content}: {error.sentence}", advice=advice) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} holds no {content}: a part of it is missing.", advice=advice) from error


def combined(path: Path | None, calibration: str, rows: Mapping[str, Row], combine: Combine) -> str:
    """Returns the text of a file of figures (None: there is none yet) with the new rows in it, a row a line.

    Raises UsageError where the file holds none.
    """
    try:
        old = {} if path is None else _valid_rows(path, read_json(path, "figures"), calibration)
        combined_rows = {plan: combine(old.get(plan), row) for plan, row in rows.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} holds no figures: a part of it is missing.", advice="Remove it and measure again."
        ) from error
    kept = old | {plan: row for plan, row in combined_rows.items() if row is not None}
    lines = ",\n".join(f"    {json.dumps(plan)}: {json.dumps(row)}" for plan, row in kept.items())
    return f'{{\n  "calibration": {json.dumps(calibration)},\n  "plans": {{\n{lines}\n  }}\n}}\n'


def _valid_rows(path: Path, report: Mapping[str, Any], calibration: str) -> dict[str, Row]:
    """Returns the rows that count beside this calibration. Raises KeyError, TypeError, AttributeError for another form."""
    rows: Mapping[str, Row] = report["plans"]
    if report["calibration"] == calibration:
        return dict(rows.items())
    valid = {plan: row for plan, row in rows.items() if Plan.parse(plan).level not in KLT_STEPS}
    if len(valid) < len(rows):
        _log.warning(
            "%d calibrated plans in %s were measured with another calibration, and do not count: measure them again",
            len(rows) - len(valid),
            path,
        )
    return valid
