"""`splitvlm evaluate`: loads a model, measures it on questions, prints the table by kind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from splitvlm.bundle import Bundle, open_bundle
from splitvlm.bundle.accuracy import kinds_alone, larger_sample
from splitvlm.bundle.figures import ACCURACY_FILE, Row
from splitvlm.domain import Cut
from splitvlm.evaluation.answers import Example, drawn, measure, read
from splitvlm.evaluation.plan_accuracy import measure_plans
from splitvlm.model.loading import load_whole, middle_cuts
from splitvlm.node.progress import show_progress
from splitvlm.planning.kinds import KindTally, worst_kind
from splitvlm.scenes.samples import warning_about

MOST_DRAWN = 1_000_000  # questions that are looked through for those of a kind


@dataclass(frozen=True)
class Selection:
    """Selects what `evaluate_plans` measures; an empty part stands for all of it."""

    cuts: Sequence[str] = ()
    levels: Sequence[str] = ()
    kinds: Sequence[str] = ()


EVERYTHING = Selection()


def evaluate_model(
    model: str, data: Path | None, questions: int, seed: int, domains: Sequence[str] = ()
) -> dict[str, object]:
    """Measures the accuracy in all and by kind, beside `majority` and `blank`, printed for people too. Raises UsageError."""
    network, processor = load_whole(model)
    examples = list(drawn(questions, seed, domains)) if domains else chosen_examples(data, questions, seed)
    _warn(model, data, examples)
    with show_progress(f"Asking {model}") as told:
        figures = measure(network, processor, examples, told)
    result = {"model": model, **figures}
    _print(result)
    return result


def evaluate_plans(
    model: str,
    data: Path | None,
    questions: int,
    seed: int,
    only: Selection = EVERYTHING,
    folder: Path | None = None,
) -> dict[str, object]:
    """Returns {"model", "questions", "seed", "plans": {plan: row of `measure_plans`}}; prints it, puts it into the bundle.

    `folder` is the bundle; None is the user's own. Raises UsageError.
    """
    bundle = open_bundle(model, folder, to_write=True)
    examples = chosen_examples(data, questions, seed, only.kinds)
    _warn(model, data, examples)
    cuts = [Cut.parse(cut) for cut in only.cuts] or list(middle_cuts(model))
    with show_progress(f"Asking {model}, split") as told:
        plans = measure_plans(model, bundle, cuts, examples, told, os.cpu_count() or 1, only.levels)
    print_plans(model, plans)
    keep_accuracy(bundle, plans, of_some_kinds=bool(only.kinds))
    return {"model": model, "questions": len(examples), "seed": seed, "plans": plans}


def print_plans(model: str, plans: Mapping[str, Row]) -> None:
    """Prints rows of `measure_plans`."""
    table = Table(title=f"{model}: mean bytes; drops in points", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("plan", "bytes", "accuracy", "drop", "differing", "worst kind"):
        table.add_column(name, justify="left" if name in ("plan", "worst kind") else "right", no_wrap=True)
    for plan, row in plans.items():
        shown = (_percent(row["accuracy"]), f"{100 * row['drop']:.2f}", _percent(row["differing"]))
        table.add_row(plan, f"{row['payload_bytes']:.0f}", *shown, _worst(row["kinds"]))
    Console().print(table)


def _warn(model: str, data: Path | None, examples: Sequence[Example]) -> None:
    """Says once, on standard error, how many pictures of the file are unlike those that the model knows."""
    pictures = list({id(example.image): example.image for example in examples}.values()) if data else []
    warnings = [warning for picture in pictures if (warning := warning_about(model, picture))]
    if warnings:
        print(f"{len(warnings)} of {len(pictures)} pictures, for one: {warnings[0]}", file=sys.stderr)


def keep_accuracy(bundle: Bundle, plans: Mapping[str, Row], *, of_some_kinds: bool) -> None:
    """Puts rows of `measure_plans` into the model's bundle, where figures of more questions stay. Raises UsageError."""
    path = bundle.add(ACCURACY_FILE, plans, kinds_alone if of_some_kinds else larger_sample)
    print(f"Added to {path}; figures of more questions stay.", file=sys.stderr)


def _worst(kinds: Mapping[str, Mapping[str, int]]) -> str:
    tallies = {kind: KindTally(**counts) for kind, counts in kinds.items()}
    worst = worst_kind(tallies)
    if worst is None or tallies[worst.kind].drop <= 0:
        return "-"
    tally = tallies[worst.kind]
    return f"{worst.kind} {100 * tally.drop:.1f} ± {100 * tally.half_interval:.1f}"


def chosen_examples(data: Path | None, questions: int, seed: int, kinds: Sequence[str] = ()) -> list[Example]:
    """Returns the examples of the file, or held-out questions about drawn scenes; of some kinds only, where kinds are named."""
    asked: Iterable[Example] = read(data) if data else drawn(MOST_DRAWN if kinds else questions, seed)
    chosen = (example for example in asked if not kinds or example.kind in kinds)
    return list(islice(chosen, None if data else questions))


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
