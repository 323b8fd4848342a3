"""Pictures of a comparison: the link with the chosen plans over it, and how the contenders' latencies spread."""

from __future__ import annotations

import io
from typing import Any

from orchestrator.simulator.results import Comparison, Run, percentile
from splitvlm.link.tracefiles import load

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")  # Paul Tol's bright scheme
MOST_SECONDS = 600.0  # of a timeline: a longer run shows its beginning
SHOWN = ("oracle", "adaptive", "adaptive-jpeg", "device/none")


def timeline(comparison: Comparison) -> bytes:
    """PNG: the uplink, the plan of each request as a coloured band under it, and the latencies; of the first device."""
    plt = _pyplot()
    run = next(run for run in comparison.runs if run.contender == "adaptive")
    rows = [r for r in run.records() if r.device == 0 and r.start_s <= MOST_SECONDS]
    figure, (link, answers) = plt.subplots(2, 1, figsize=(9, 5.5), sharex=True, layout="constrained")
    end_s = rows[-1].start_s + rows[-1].latency_s
    _link(link, comparison.trace, end_s)
    ends_s = [*(row.start_s for row in rows[1:]), end_s]
    for index, plan in enumerate(sorted({row.plan for row in rows})):
        colour = COLOURS[index % len(COLOURS)]
        mine = [(row, end) for row, end in zip(rows, ends_s, strict=True) if row.plan == plan]
        link.broken_barh(
            [(row.start_s, end - row.start_s) for row, end in mine], (0, 1), color=colour, alpha=0.25, lw=0,
            transform=link.get_xaxis_transform(), label=plan,
        )  # fmt: skip
        answers.plot([r.start_s for r, _ in mine], [r.latency_s for r, _ in mine], ".", color=colour, ms=5)
    won = [row for row in rows if row.hedged and row.device_won]
    if won:
        x, y = [row.start_s for row in won], [row.latency_s for row in won]
        answers.plot(x, y, "o", mfc="none", mec="black", ms=8, label="the device's hedge answered")
        answers.legend(loc="upper right", frameon=False)
    answers.set(ylabel="latency, s (simulated)", xlabel="time, s", yscale="log")
    _plain(answers.yaxis)
    link.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    return _png(plt, figure)


def _link(axis: Any, trace: str, end_s: float) -> None:
    up = load(trace).up
    seconds = [float(second) for second in range(int(end_s) + 1)]
    rates = [up.rate_bps(second) / 1e6 for second in seconds]
    axis.step(seconds, rates, where="post", color="black", lw=0.9)
    axis.set(ylabel="uplink, Mbit/s", ylim=(0, None))


def spread(comparison: Comparison) -> bytes:
    """PNG: the cumulative distribution of latency of the contenders that matter."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    names = [*SHOWN, *(best.contender for best in comparison.best_fixed)]
    chosen = [run for run in comparison.runs if run.contender in names]
    for index, run in enumerate(chosen):
        shares, seconds = _cumulative(run)
        style = {"color": COLOURS[index % len(COLOURS)], "lw": 1.5, "zorder": 10 - index}  # ours above its equals
        axis.plot(seconds, shares, label=run.contender, **style)
    axis.set(xscale="log", xlabel="latency, s (simulated)", ylabel="share of answers", ylim=(0, 1.01))
    _plain(axis.xaxis)
    axis.legend(frameon=False, loc="lower right")
    return _png(plt, figure)


def _plain(axis: Any) -> None:
    """Seconds on a logarithmic axis as people write them; within one decade every step is named, else 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter

    low, high = axis.get_view_interval()
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))

    def name(seconds: float, _: int) -> str:
        return f"{seconds:g}" if high < 10 * low or f"{seconds:e}"[0] in "25" else ""

    axis.set_minor_formatter(FuncFormatter(name))


def _cumulative(run: Run) -> tuple[list[float], list[float]]:
    ordered = sorted(run.latency_s)
    shares = [step / 200 for step in range(201)]
    return shares, [percentile(ordered, share) for share in shares]


def regret(comparison: Comparison) -> bytes:
    """PNG: mean latency above the oracle's, of the ten nearest to it."""
    plt = _pyplot()
    ranked = sorted((s for s in comparison.summaries if s.contender != "oracle"), key=lambda s: s.mean_s)[:10]
    figure, axis = plt.subplots(figsize=(9, 3.5), layout="constrained")
    colours = [COLOURS[1] if s.contender == "adaptive" else COLOURS[0] for s in ranked]
    bars = axis.barh([s.contender for s in ranked], [100 * (s.regret or 0.0) for s in ranked], color=colours)
    axis.bar_label(bars, fmt="%.1f", padding=3)
    axis.invert_yaxis()
    axis.set(xlabel="mean latency above the oracle's, %")
    return _png(plt, figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _png(plt: Any, figure: Any) -> bytes:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    store = io.BytesIO()
    figure.savefig(store, dpi=130)
    plt.close(figure)
    return store.getvalue()
