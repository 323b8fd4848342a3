"""The run as a picture: how the times are distributed, and what the node gave over the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splitvlm.tools.load.timing import RequestTiming

BLUE, ORANGE, GREY = "#0077bb", "#ee7733", "0.6"
BINS = 60


def plot(file: Path, timings: Sequence[RequestTiming], title: str) -> None:
    """Writes a PNG with three panels: distributions of TTFT and E2E, of gaps between tokens, and tokens/s over the run."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    answered = [timing for timing in timings if timing.answered]
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    _distribution(axes[0], [1e3 * timing.ttft_s for timing in answered], BLUE, "first token (TTFT)")
    _distribution(axes[0], [1e3 * timing.e2e_s for timing in answered], ORANGE, "whole answer (E2E)")
    axes[0].set(xscale="log", xlabel="milliseconds since the request began", ylabel="share of requests")
    _distribution(axes[1], [1e3 * gap_s for timing in answered for gap_s in timing.itl_s], BLUE, "gap (ITL)")
    axes[1].set(xscale="log", xlabel="milliseconds between two tokens", ylabel="share of gaps")
    _throughput(axes[2], timings)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="best")
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _distribution(axis: Any, values: Sequence[float], colour: str, label: str) -> None:
    """Draws the share of values at or below each value."""
    ordered = sorted(values)
    axis.step(
        ordered, [(rank + 1) / len(ordered) for rank in range(len(ordered))], where="post", color=colour, label=label
    )


def _throughput(axis: Any, timings: Sequence[RequestTiming]) -> None:
    end_s = max((timing.ended_s for timing in timings), default=1.0)
    width_s = end_s / BINS
    tokens, running = [0.0] * BINS, [0.0] * BINS
    for timing in timings:
        for at_s in timing.token_times_s:
            tokens[min(BINS - 1, int(at_s / width_s))] += 1 / width_s
        for index in range(int(timing.started_s / width_s), min(BINS, int(timing.ended_s / width_s) + 1)):
            running[index] += 1
    middles = [(index + 0.5) * width_s for index in range(BINS)]
    axis.plot(middles, tokens, color=BLUE, label="tokens/s")
    axis.plot(middles, running, color=GREY, label="requests under way")
    axis.set(xlabel="seconds since the run's start", ylabel="tokens/s, requests")
    axis.set_ylim(bottom=0)
