"""The verb `splitvlm leak`: the table, the plot, the object for machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from splitvlm.bundle import open_bundle
from splitvlm.bundle.figures import LEAK_FILE
from splitvlm.bundle.leaks import stronger_attack
from splitvlm.domain import FULL, Plan
from splitvlm.evaluation.leak.measure import Leaks, measure_leak, save_plot
from splitvlm.variants.folder import read_variant


def leak(
    model: str,
    cuts: Sequence[str],
    levels: Sequence[str],
    training: int,
    questions: int,
    seed: int,
    plot: Path,
    folder: Path | None = None,
    variant_folder: Path | None = None,
) -> dict[str, object]:
    """Measures, prints, and puts the figures into the model's bundle; returns {"model", "seed", "plans": {plan: row}}.

    `folder` is the bundle; None is the user's own. With a variant's folder its plans are measured, and their figures go into
    that one. Raises UsageError.
    """
    bundle = open_bundle(model, folder, to_write=variant_folder is None)
    variant = read_variant(variant_folder, bundle.spec) if variant_folder is not None else None
    notes = Console(stderr=True)

    def attacking(what: str) -> None:
        notes.print(f"attacking {what}")

    leaks = measure_leak(model, bundle, cuts, levels, training, questions, seed, attacking, variant)
    _print_table(model, leaks)
    save_plot(leaks, plot)
    notes.print(f"Pictures: {plot}")
    plans = _figures(leaks, training, variant.name if variant else FULL)
    path = (
        variant.add(LEAK_FILE, bundle, plans, stronger_attack)
        if variant
        else bundle.add(LEAK_FILE, plans, stronger_attack)
    )
    notes.print(f"Added to {path}; figures of stronger attacks stay.", soft_wrap=True)
    return {"model": model, "seed": seed, "plans": plans}


def _print_table(model: str, leaks: Leaks) -> None:
    table = Table(
        "cut", "level", "PSNR, dB", "SSIM", "answered", "attack", title=f"{model}: {leaks.questions} questions"
    )
    for row in leaks.rows:
        figures = (f"{row.psnr_db:.1f}", f"{row.ssim:.2f}", f"{100 * row.answered:.1f} %")
        table.add_row(str(row.cut), row.level, *figures, row.attack)
    table.add_row("-", "blank picture", "", "", f"{100 * leaks.floor:.1f} %", "", style="dim")
    Console().print(table)


def _figures(leaks: Leaks, training: int, variant: str) -> dict[str, dict[str, object]]:
    """Returns the figures of each plan, rounded as the bundle keeps them."""
    floor = round(leaks.floor, 4)
    return {
        str(Plan(row.cut, row.level, variant)): {
            "answered": round(row.answered, 4),
            "floor": floor,
            "questions": leaks.questions,
            "training": training,
            "psnr_db": round(row.psnr_db, 2),
            "ssim": round(row.ssim, 4),
            "attack": row.attack,
        }
        for row in leaks.rows
    }
