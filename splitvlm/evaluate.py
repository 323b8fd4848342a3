"""`splitvlm evaluate`: loads a model, measures it on questions, prints the table by kind."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from splitvlm.errors import UsageError
from splitvlm.model.loading import load_whole
from splitvlm.variants.evaluation import drawn, measure, read


def evaluate_model(model: str, data: Path | None, questions: int, seed: int) -> dict[str, object]:
    """Accuracy in all and by kind, beside `majority` and `blank`, printed for people too. Raises UsageError."""
    network, processor = load_whole(model)
    try:
        examples = read(data) if data else list(drawn(questions, seed))
    except ValueError as error:
        raise UsageError(f"{error}.", advice='A line is {"image": path, "question": text, "answer": text}.') from error
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"Asking {model}", total=None)
        figures = measure(
            network, processor, examples, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    result = {"model": model, **figures}
    _print(result)
    return result


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
