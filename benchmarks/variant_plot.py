"""Draws accuracy of variants over the time of their stage and over their files' bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Writes the PNG: one point a variant, in two panels that share the axis of accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for panel, key, label, scale in (
        (panels[0], "stage_ms", "tower and connector, ms a tile", 1.0),
        (panels[1], "file_bytes", "file, MiB", 2.0**20),
    ):
        for name, row in rows.items():
            place = (row[key] / scale, 100 * row["accuracy"])
            panel.plot(*place, "o")
            panel.annotate(name, place, xytext=(4, 4), textcoords="offset points", fontsize=8)
        panel.set_xlabel(label)
        panel.margins(x=0.15, y=0.1)
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("right answers, %")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
