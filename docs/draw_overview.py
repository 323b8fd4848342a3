"""Draws docs/overview.svg, the README's picture: `python docs/draw_overview.py`. The canvas counts in hundredths of an inch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FILE = Path(__file__).parent / "overview.svg"
WIDTH, HEIGHT = 1100, 640
INK, SOFT, PAPER = "#1f2933", "#66737f", "#ffffff"
DEVICE, LINK, CLOUD, CONTROL = "#0f766e", "#b45309", "#1d4ed8", "#7c3aed"
CUTS = (("image", 215), ("vision:k", 300), ("tokens", 560), ("lm:k", 650), ("device", 930))


def main() -> None:
    rcParams.update({"svg.hashsalt": "splitvlm", "font.family": "DejaVu Sans", "svg.fonttype": "path"})
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    rooms(axes)
    request(axes)
    control(axes)
    model(axes)
    figure.savefig(FILE, metadata={"Date": None}, facecolor=PAPER)


def rooms(axes: Any) -> None:
    """The three places: device, link, cloud."""
    for x, width, colour, title in ((30, 400, DEVICE, "DEVICE"), (690, 380, CLOUD, "CLOUD")):
        box(axes, x, 190, width, 290, colour, "", filled=0.06)
        axes.text(x + 18, 455, title, color=colour, weight="bold", fontsize=12, va="center")
    axes.text(130, 455, "edge node, a daemon", color=SOFT, fontsize=9.5, va="center")
    axes.text(786, 455, "cloud node", color=SOFT, fontsize=9.5, va="center")
    axes.text(560, 455, "LINK", color=LINK, weight="bold", fontsize=12, ha="center", va="center")
    axes.text(
        560,
        432,
        "measured by every question;\na gateway sees sealed bytes only",
        color=SOFT,
        fontsize=8.5,
        ha="center",
        va="top",
    )


def request(axes: Any) -> None:
    """One request: from the application's question to the answer's tokens."""
    box(axes, 48, 375, 110, 56, DEVICE, "application\nasks")
    box(axes, 188, 375, 224, 56, DEVICE, "policy picks a plan, per question\nlink estimate + plan table")
    arrow(axes, (158, 403), (188, 403), DEVICE)
    steps = (("lower part\nof the model", 48), ("encode\nat a level", 180), ("seal", 312))
    for text, x in steps:
        box(axes, x, 285, 100, 56, DEVICE, text)
    arrow(axes, (262, 375), (110, 341), DEVICE)
    for x in (148, 280):
        arrow(axes, (x, 313), (x + 32, 313), DEVICE)
    arrow(axes, (412, 313), (708, 313), LINK, width=3.2)
    axes.text(560, 326, "coded features, or a coded picture", color=LINK, fontsize=9.5, ha="center", va="bottom")
    axes.text(560, 303, "sealed end to end", color=SOFT, fontsize=8.5, ha="center", va="top")
    for text, x in (("open", 708), ("decode", 832), ("upper part\nof the model", 950)):
        box(axes, x, 285, 92 if x < 950 else 104, 56, CLOUD, text)
    box(axes, 708, 375, 346, 56, CLOUD, "prefix cache: another question about a picture\nsends only the question")
    arrow(axes, (1002, 375), (1002, 341), CLOUD, both=True)
    arrow(axes, (800, 313), (832, 313), CLOUD)
    arrow(axes, (924, 313), (950, 313), CLOUD)
    box(axes, 48, 208, 364, 44, DEVICE, "answer, streamed, then plan, bytes and times")
    box(axes, 708, 208, 346, 44, CLOUD, "tokens, one by one")
    arrow(axes, (1002, 285), (1002, 252), CLOUD)
    arrow(axes, (708, 230), (412, 230), LINK, width=1.6)
    axes.text(560, 238, "sealed tokens", color=LINK, fontsize=9.5, ha="center", va="bottom")


def control(axes: Any) -> None:
    """The orchestrator above both, with the control plane."""
    box(axes, 400, 535, 320, 72, CONTROL, "", filled=0.08)
    axes.text(560, 586, "ORCHESTRATOR", color=CONTROL, weight="bold", fontsize=12, ha="center", va="center")
    axes.text(
        560, 558, "who is alive · measured profiles · plan tables", color=INK, fontsize=9.5, ha="center", va="center"
    )
    arrow(axes, (300, 480), (402, 552), CONTROL, both=True, dashed=True)
    arrow(axes, (860, 480), (718, 552), CONTROL, both=True, dashed=True)
    axes.text(330, 525, "profile, link report,\nplan table", color=SOFT, fontsize=8.5, ha="right", va="center")
    axes.text(812, 525, "profile, load", color=SOFT, fontsize=8.5, ha="left", va="center")
    axes.text(738, 571, "not needed to answer", color=SOFT, fontsize=8.5, ha="left", va="center", style="italic")


def model(axes: Any) -> None:
    """The model from the picture to the answer, and where it can be cut."""
    parts = (
        ("picture", 30, 170),
        ("vision tower", 230, 310),
        ("connector", 540, 0),
        ("language model", 575, 340),
        ("answer", 945, 125),
    )
    for text, x, width in parts:
        if width:
            box(axes, x, 96, width, 40, INK, text, filled=0.05)
    for left, right in ((200, 230), (540, 575), (915, 945)):
        arrow(axes, (left, 116), (right, 116), INK)
    for name, x in CUTS:
        axes.plot((x, x), (72, 152), color=LINK, linewidth=1.8, linestyle=(0, (4, 2)))
        axes.text(
            x, 56, name, color=LINK, fontsize=10, ha="center", va="center", family="DejaVu Sans Mono", weight="bold"
        )
    axes.text(
        30,
        164,
        "One model, five kinds of cut: left of it runs on the device, right of it in the cloud",
        color=INK,
        fontsize=9.5,
    )
    axes.text(215, 34, "device only resizes", color=SOFT, fontsize=8.5, ha="center")
    axes.text(560, 34, "visual tokens cross", color=SOFT, fontsize=8.5, ha="center")
    axes.text(930, 34, "nothing crosses", color=SOFT, fontsize=8.5, ha="center")


def box(
    axes: Any, x: float, y: float, width: float, height: float, colour: str, text: str, filled: float = 0.0
) -> None:
    """A rounded box with its text in the middle; `filled` is the share of the colour in its ground."""
    shape = f"round,pad=0,rounding_size={min(10, height / 4)}"
    ground = FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=PAPER, edgecolor="none")
    axes.add_patch(ground)
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor=colour, edgecolor="none", alpha=filled)
    )
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle=shape, facecolor="none", edgecolor=colour, linewidth=1.3)
    )
    axes.text(x + width / 2, y + height / 2, text, color=INK, fontsize=9.5, ha="center", va="center", linespacing=1.35)


def arrow(
    axes: Any,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    *,
    width: float = 1.4,
    both: bool = False,
    dashed: bool = False,
) -> None:
    style = "<|-|>" if both else "-|>"
    line = (0, (4, 3)) if dashed else "solid"
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=11 + 2 * width,
            color=colour,
            linewidth=width,
            linestyle=line,
            shrinkA=0,
            shrinkB=0,
        )
    )


if __name__ == "__main__":
    main()
