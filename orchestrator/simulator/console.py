"""A comparison as a table for people, and as files."""

from __future__ import annotations

import re
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from orchestrator.simulator.results import Comparison, Summary, write_csv, write_json
from orchestrator.simulator.verdict import verdict
from splitvlm.errors import UsageError
from splitvlm.files.shown import fixed, percent, shown_or_unknown

MOST_ROWS = 14


def show(comparison: Comparison, console: Console) -> None:
    """Prints the contenders by their mean; all of them are in the files."""
    title = f"{comparison.scenario} over {Path(comparison.trace).name} (simulated; seconds, drop in points)"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    late = comparison.summaries[0].deadline_misses is not None
    for name in ("", "mean", "p95", "late" if late else "p99", "kB", "J", "drop", "moves", "regret"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    ranked = sorted(comparison.summaries, key=lambda summary: summary.mean_s)
    shown = [s for rank, s in enumerate(ranked) if rank < MOST_ROWS or s.contender in ("adaptive", "device/none")]
    for summary in shown:
        style = "bold" if summary.contender == "adaptive" else ""
        table.add_row(*_cells(summary), style=style)
    console.print(table)
    conclusion = verdict(comparison)
    if conclusion is not None:
        console.print(conclusion.sentence, soft_wrap=True, highlight=False)
    if len(shown) < len(ranked):
        console.print(f"{len(ranked) - len(shown)} slower contenders are in the files.")


def _cells(summary: Summary) -> tuple[str, ...]:
    late = summary.deadline_misses
    return (
        summary.contender,
        fixed(summary.mean_s, 3),
        fixed(summary.p95_s, 3),
        fixed(summary.p99_s, 3) if late is None else percent(late),
        fixed(summary.bytes_mean / 1e3, 1),
        fixed(summary.energy_mean_j, 2),
        shown_or_unknown(summary.accuracy_drop, 100, 2),
        f"{summary.switches}",
        "" if summary.regret is None else percent(summary.regret),
    )


def save(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes `<scenario>-<trace>.csv` and `.json`; returns their paths.

    Raises UsageError where the folder cannot be written.
    """
    files = [folder / f"{stem(comparison)}.csv", folder / f"{stem(comparison)}.json"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(files[0], comparison)
        write_json(files[1], comparison)
    except OSError as error:
        raise UsageError(
            f"Cannot write to {folder}: {error.strerror}.", advice="Choose another --out folder."
        ) from error
    return files


def stem(comparison: Comparison) -> str:
    """Returns the beginning of a comparison's file names."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{comparison.scenario}-{Path(comparison.trace).name}").strip("-")
