"""Pictures of a comparison: the link with the chosen plans over it, and how the contenders' latencies spread.

They are drawn as wide as two phones, so that their letters can be read on one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from orchestrator.simulator.results import Comparison, Record, Run, percentile
from orchestrator.simulator.verdict import fixed_plans
from splitvlm.files.shown import percent
from splitvlm.link.tracefiles import load

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")  # Paul Tol's bright scheme
WIDTH_IN, DPI = 5.4, 150
MOST_SECONDS = 600.0  # of a timeline
LEAST_REQUESTS = 40  # of a timeline, however short the trace is
SHOWN = ("oracle", "adaptive", "adaptive-jpeg", "device/none")
MOST_BARS = 8


def timeline(comparison: Comparison) -> tuple[bytes, str]:
    """Returns PNG and its caption: uplink, each request's plan as a band under it, and the latencies; of the first device.

    It shows one repetition of the trace at most: where the plans change most often.
    """
    plt = _pyplot()
    run = next(run for run in comparison.runs if run.contender == "adaptive")
    every = sorted((r for r in run.records() if r.device == 0), key=lambda row: row.start_s)
    rows = busiest(every, load(comparison.trace).up.duration_s)
    figure, (link, answers) = plt.subplots(2, 1, figsize=(WIDTH_IN, 4.4), sharex=True, layout="constrained")
    start_s, end_s = rows[0].start_s, rows[-1].start_s + rows[-1].latency_s
    _link(link, comparison.trace, start_s, end_s)
    ends_s = [*(row.start_s for row in rows[1:]), end_s]
    for index, plan in enumerate(sorted({row.plan for row in rows})):
        colour = COLOURS[index % len(COLOURS)]
        mine = [(row, end) for row, end in zip(rows, ends_s, strict=True) if row.plan == plan]
        link.broken_barh(
            [(row.start_s, end - row.start_s) for row, end in mine], (0, 1), color=colour, alpha=0.3, lw=0,
            transform=link.get_xaxis_transform(), label=plan,
        )  # fmt: skip
        answers.plot([r.start_s for r, _ in mine], [r.latency_s for r, _ in mine], ".", color=colour, ms=5)
    won = [row for row in rows if row.hedged and row.device_won]
    if won:
        x, y = [row.start_s for row in won], [row.latency_s for row in won]
        answers.plot(x, y, "o", mfc="none", mec="black", ms=7, label="the device's hedge answered")
    answers.set(ylabel="latency, s", xlabel="time, s (simulated)", yscale="log", xlim=(start_s, end_s))
    _plain(answers.yaxis)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return _png(plt, figure), _caption(rows, every)


def busiest(rows: Sequence[Record], repetition_s: float) -> Sequence[Record]:
    """Returns the rows of the span in which the plan changes most often, as long as the trace until it repeats; the first of
    equals.
    """
    long_enough_s = rows[min(LEAST_REQUESTS, len(rows)) - 1].start_s - rows[0].start_s
    length_s = min(MOST_SECONDS, max(repetition_s, long_enough_s))
    best, most, last = (0, len(rows)), -1, 0
    for first in range(len(rows)):
        while last < len(rows) and rows[last].start_s - rows[first].start_s <= length_s:
            last += 1
        changes = _changes(rows[first:last])
        if changes > most:
            best, most = (first, last), changes
        if last == len(rows):
            break
    return rows[slice(*best)]


def _changes(rows: Sequence[Record]) -> int:
    return sum(earlier.plan != later.plan for earlier, later in pairwise(rows))


def _caption(rows: Sequence[Record], every: Sequence[Record]) -> str:
    part = (
        "all questions"
        if len(rows) == len(every)
        else f"{len(rows)} of {len(every)} questions, where plans change most"
    )
    changes = _changes(rows)
    if changes == 0:
        return f"The adaptive policy's plans ({part}): it stays with {rows[0].plan} throughout."
    times = "once" if changes == 1 else f"{changes} times"
    return f"The adaptive policy's plans ({part}): the bands are the plans, which change {times} here."


def _link(axis: Any, trace: str, start_s: float, end_s: float) -> None:
    up = load(trace).up
    steps = 600
    seconds = [start_s + (end_s - start_s) * step / steps for step in range(steps + 1)]
    axis.step(seconds, [up.rate_bps(second) / 1e6 for second in seconds], where="post", color="black", lw=0.9)
    axis.set(ylabel="uplink, Mbit/s", ylim=(0, None))


def spread(comparison: Comparison) -> tuple[bytes, str]:
    """Returns PNG and its caption: the cumulative distribution of latency of the contenders that matter."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(WIDTH_IN, 3.6), layout="constrained")
    fixed = min(fixed_plans(comparison), key=lambda summary: summary.mean_s).contender
    chosen = [run for run in comparison.runs if run.contender in (*SHOWN, fixed)]
    for index, run in enumerate(chosen):
        shares, seconds = _cumulative(run)
        style = {"color": COLOURS[index % len(COLOURS)], "lw": 1.5, "zorder": 10 - index}  # ours above its equals
        axis.plot(seconds, shares, label=run.contender, **style)
    axis.set(xscale="log", xlabel="latency, s (simulated)", ylabel="share of answers", ylim=(0, 1.01))
    _plain(axis.xaxis)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return _png(plt, figure), "Share of the answers that came within so many seconds; further left is better."


def _plain(axis: Any) -> None:
    """Labels a logarithmic axis with seconds as people write them.

    Within half a decade every step is named, else 1, 2 and 5.
    """
    from matplotlib.ticker import FuncFormatter

    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))

    def name(seconds: float, _: int) -> str:
        return f"{seconds:g}" if high < 3 * low or f"{seconds:e}"[0] in "25" else ""

    axis.set_minor_formatter(FuncFormatter(name))


def _cumulative(run: Run) -> tuple[list[float], list[float]]:
    ordered = sorted(run.latency_s)
    shares = [step / 200 for step in range(201)]
    return shares, [percentile(ordered, share) for share in shares]


def regret(comparison: Comparison) -> tuple[bytes, str]:
    """Returns PNG and its caption: mean latency above the oracle's, of those nearest to it."""
    plt = _pyplot()
    ranked = sorted((s for s in comparison.summaries if s.contender != "oracle"), key=lambda s: s.mean_s)[:MOST_BARS]
    figure, axis = plt.subplots(figsize=(WIDTH_IN, 3.0), layout="constrained")
    colours = [COLOURS[1] if s.contender == "adaptive" else COLOURS[0] for s in ranked]
    shares = [s.regret or 0.0 for s in ranked]
    bars = axis.barh([s.contender for s in ranked], [100 * max(0.0, share) for share in shares], color=colours)
    axis.bar_label(bars, labels=[percent(share) for share in shares], padding=3)
    axis.margins(x=0.15)
    axis.invert_yaxis()
    axis.set(xlabel="mean latency above the oracle's, %", xlim=(0, None))
    return _png(plt, figure), "Mean latency above that of an oracle that knows the link; shorter is better."


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _png(plt: Any, figure: Any) -> bytes:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    store = io.BytesIO()
    figure.savefig(store, dpi=DPI)
    plt.close(figure)
    return store.getvalue()
