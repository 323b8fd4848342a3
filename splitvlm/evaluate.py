"""`splitvlm evaluate`: loads a model, measures it on questions, prints the table by kind."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from splitvlm.accuracy import measure_plans
from splitvlm.errors import UsageError
from splitvlm.model.loading import load_whole, middle_cuts
from splitvlm.variants.evaluation import Example, drawn, measure, read
from splitvlm.waiting import waiting


def evaluate_model(model: str, data: Path | None, questions: int, seed: int) -> dict[str, object]:
    """Accuracy in all and by kind, beside `majority` and `blank`, printed for people too. Raises UsageError."""
    network, processor = load_whole(model)
    examples = _examples(data, questions, seed)
    with waiting(f"Asking {model}") as told:
        figures = measure(network, processor, examples, told)
    result = {"model": model, **figures}
    _print(result)
    return result


def evaluate_plans(model: str, data: Path | None, questions: int, seed: int) -> dict[str, object]:
    """{"model", "questions", "seed", "plans": {plan: {"accuracy", "drop", "differing", "payload_bytes"}}}, printed too."""
    examples = _examples(data, questions, seed)
    with waiting(f"Asking {model}, split") as told:
        plans = measure_plans(model, middle_cuts(model), examples, told, os.cpu_count() or 1)
    table = Table("plan", "payload, mean bytes", "accuracy", "drop, points", "other answers", title=model)
    for plan, row in plans.items():
        shown = (_percent(row["accuracy"]), f"{100 * row['drop']:.2f}", _percent(row["differing"]))
        table.add_row(plan, f"{row['payload_bytes']:.0f}", *shown)
    Console().print(table)
    return {"model": model, "questions": len(examples), "seed": seed, "plans": plans}


def _examples(data: Path | None, questions: int, seed: int) -> list[Example]:
    try:
        return read(data) if data else list(drawn(questions, seed))
    except ValueError as error:
        advice = 'A line is {"image": path, "question": text, "answer": text}.'
        raise UsageError(f"{error}.", advice=advice) from error


def _print(result: dict[str, object]) -> None:
    table = Table("kind", "questions", "accuracy", "majority", "blank", title=f"{result['model']}")
    kinds = result["kinds"]
    assert isinstance(kinds, dict)
    for kind, row in sorted(kinds.items()):
        table.add_row(kind, f"{row['questions']}", *(_percent(row[name]) for name in ("accuracy", "majority", "blank")))
    table.add_row(
        "all",
        f"{result['questions']}",
        *(_percent(result[name]) for name in ("accuracy", "majority", "blank")),
        style="bold",
    )
    Console().print(table)


def _percent(share: object) -> str:
    return f"{100 * share:.1f} %" if isinstance(share, float) else "-"
