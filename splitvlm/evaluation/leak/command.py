"""The verb `splitvlm leak`: the table, the plot, the object for machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from splitvlm.evaluation.leak.measure import measure_leak, save_plot


def leak(
    model: str, cuts: Sequence[str], levels: Sequence[str], teaching: int, questions: int, seed: int, plot: Path
) -> dict[str, object]:
    """Measure and print; {"model", "questions", "floor", "rows": [{"cut", "level", ...}]}. Raises UsageError."""
    told = Console(stderr=True)

    def attacking(what: str) -> None:
        told.print(f"attacking {what}")

    leaks = measure_leak(model, cuts, levels, teaching, questions, seed, attacking)
    table = Table(
        "cut", "level", "PSNR, dB", "SSIM", "answered", "attack", title=f"{model}: {leaks.questions} questions"
    )
    for row in leaks.rows:
        figures = (f"{row.psnr_db:.1f}", f"{row.ssim:.2f}", f"{100 * row.answered:.1f} %")
        table.add_row(str(row.cut), row.level, *figures, row.attack)
    table.add_row("-", "blank picture", "", "", f"{100 * leaks.floor:.1f} %", "", style="dim")
    Console().print(table)
    save_plot(leaks, plot)
    told.print(f"Pictures: {plot}")
    rows = [
        {
            "cut": str(row.cut),
            "level": row.level,
            "psnr_db": round(row.psnr_db, 2),
            "ssim": round(row.ssim, 4),
            "answered": round(row.answered, 4),
            "attack": row.attack,
        }
        for row in leaks.rows
    ]
    return {"model": model, "questions": leaks.questions, "seed": seed, "floor": round(leaks.floor, 4), "rows": rows}
