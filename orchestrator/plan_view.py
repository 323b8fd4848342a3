"""`splitvlm plan`: for which uplink rates each plan is the fastest, why, and a picture of the cost lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from splitvlm.errors import UsageError
from splitvlm.files.shown import number, rate, shown_or_unknown
from splitvlm.planning.costs import CostLine
from splitvlm.planning.limits import Objection, PlanLimits, unmeasured
from splitvlm.planning.profiles import Profiles
from splitvlm.planning.table import build_table, envelope

SLOWEST_BPS, FASTEST_BPS = 1e4, 1e8  # the axis of the picture, which grows until every span shows
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")  # Paul Tol's bright scheme


@dataclass(frozen=True, slots=True)
class Span:
    """Holds the uplink rates for which one line is the fastest: from `low_bps` (0: no link at all) to `high_bps` (may be
    infinite).
    """

    low_bps: float
    high_bps: float
    line: CostLine


@dataclass(frozen=True, slots=True)
class View:
    """Shows a table at one round-trip time and one length of answer."""

    profiles: Profiles
    rtt_s: float
    n_tokens: int
    spans: tuple[Span, ...]
    allowed: tuple[CostLine, ...]
    forbidden: tuple[tuple[CostLine, tuple[Objection, ...]], ...]
    unmeasured: str  # a sentence about what is forbidden because nobody measured it; empty where nothing is
    kept: tuple[CostLine, ...]  # in the table that a device gets


def view(profiles: Profiles, limits: PlanLimits, rtt_s: float, n_tokens: int) -> View:
    """Raises ConfigError where the limits forbid every plan."""
    lines = profiles.lines()
    table = build_table(lines, limits, 1)
    allowed = tuple(line for line in lines if not limits.forbidding(line))
    walk = envelope(allowed, rtt_s, n_tokens)
    lows = [high for high, _ in walk[1:]] + [0.0]
    spans = tuple(Span(low, high, line) for (high, line), low in zip(walk, lows, strict=True))
    forbidden = tuple((line, objections) for line in lines if (objections := limits.forbidding(line)))
    return View(profiles, rtt_s, n_tokens, spans, allowed, forbidden, unmeasured(lines, limits), table.lines)


def show(seen: View, console: Console, *, every: bool, explain: bool) -> None:
    """Prints the spans, then what was left out."""
    title = f"{seen.profiles.model}: the fastest plan, RTT {1e3 * seen.rtt_s:g} ms, {seen.n_tokens} decoding steps"
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("kbit/s up", "plan", "s there", "bytes", "drop", "leak", "MiB"):
        table.add_column(name, justify="left" if name in ("kbit/s up", "plan") else "right", no_wrap=True)
    for span in seen.spans:
        line = span.line
        table.add_row(
            _between(span),
            str(line.plan),
            _seconds(span, seen),
            f"{line.payload_bytes}",
            shown_or_unknown(line.accuracy_drop, 100, 2),
            shown_or_unknown(line.leak, 1, 2),
            f"{line.device_memory_bytes / 2**20:.0f}",
        )
    console.print(table)
    console.print(f"Drop in points of accuracy, {seen.profiles.accuracy_source}; measured on {seen.profiles.machine}.")
    for span in seen.spans:
        if (worst := span.line.worst_kind) is not None and worst.drop > 0:
            console.print(f"{span.line.plan} loses {100 * worst.drop:.1f} points of {worst.kind} questions.")
    console.print("Leak: 0 is what a blank picture tells, 1 the picture itself. What nobody measured is unknown.")
    _left_out(seen, console, every)
    if explain:
        for sentence in (*reasons(seen), *suffering(seen)):
            console.print(f"- {sentence}", soft_wrap=True, highlight=False)


def _between(span: Span) -> str:
    if span.low_bps == 0:
        return f"below {_kbit(span.high_bps)}" if math.isfinite(span.high_bps) else "any rate"
    if math.isinf(span.high_bps):
        return f"above {_kbit(span.low_bps)}"
    return f"{_kbit(span.low_bps)} to {_kbit(span.high_bps)}"


def _kbit(bps: float) -> str:
    """Writes a rate in kbit/s with three digits that count, and no exponent."""
    kbit = float(f"{bps / 1e3:.3g}")
    return f"{kbit:,.0f}" if kbit >= 100 else f"{kbit:.3g}"


def _seconds(span: Span, seen: View) -> str:
    """Writes the latency at both ends of the span, `0.082..0.075`; without an end, the limit."""
    ends = (span.low_bps, span.high_bps)
    times = [span.line.latency_s(bps, seen.rtt_s, seen.n_tokens) if bps else None for bps in ends]
    if times[0] is None:
        return f"{times[1]:.3f}" if span.line.local else f"above {times[1]:.3f}"
    return f"{times[0]:.3f}..{times[1]:.3f}" if times[0] != times[1] else f"{times[1]:.3f}"


def _left_out(seen: View, console: Console, every: bool) -> None:
    beaten = [line for line in seen.allowed if line not in seen.kept]
    console.print(
        f"{len(seen.kept)} plans in the device's table, {len(beaten)} never the fastest, {len(seen.forbidden)} forbidden."
    )
    if seen.unmeasured:
        console.print(seen.unmeasured, soft_wrap=True, highlight=False)
    if every:
        for line in beaten:
            console.print(f"  never the fastest: {line.plan}", highlight=False)
        for line, objections in seen.forbidden:
            told = ", ".join(map(str, objections))
            console.print(f"  forbidden: {line.plan} by {told}", soft_wrap=True, highlight=False)


def reasons(seen: View) -> Iterator[str]:
    """Yields why one plan follows another, with the numbers of the crossing; and what the device alone means."""
    for faster, slower in zip(seen.spans, seen.spans[1:], strict=False):
        a, b = faster.line, slower.line
        fewer = (a.bits_of(seen.n_tokens) - b.bits_of(seen.n_tokens)) / 8
        at_s = [line.latency_s(math.inf, seen.rtt_s, seen.n_tokens) for line in (a, b)]
        yield (
            f"Below {rate(faster.low_bps)} {b.plan} is faster than {a.plan}: it sends {fewer:.0f} bytes less "
            f"and costs {1e3 * (at_s[1] - at_s[0]):.1f} ms more besides; "
            f"8 x {fewer:.0f} / {at_s[1] - at_s[0]:.4f} s is that rate."
        )
    local = [line for line in seen.allowed if line.local]
    if not local:
        yield "No plan runs on the device alone: in an outage there is no answer."
        return
    alone_s = local[0].latency_s(1.0, seen.rtt_s, seen.n_tokens)
    if seen.spans[0].line.local:
        best = min((line for line in seen.allowed if not line.local), default=None, key=lambda x: _limit_s(x, seen))
        other = (
            f"; the nearest cloud plan, {best.plan}, takes {_limit_s(best, seen):.3f} s on an endless link"
            if best
            else ""
        )
        yield f"Use one node: the device alone takes {alone_s:.3f} s{other}."
    else:
        yield f"The device alone takes {alone_s:.3f} s: that is what an outage costs, and what a hedge bounds."


def suffering(seen: View) -> Iterator[str]:
    """Yields which plans a kind of question forbids, and of which plans of the table nobody knows what they lose."""
    for line, objections in seen.forbidden:
        if Objection("max_kind_drop") in objections and line.worst_kind is not None:
            yield (
                f"{line.plan} is forbidden by max_kind_drop: {line.worst_kind.kind} questions lose "
                f"{100 * line.worst_kind.drop:.1f} points, all questions {shown_or_unknown(line.accuracy_drop, 100, 1)}."
            )
    no_drop = [str(line.plan) for line in seen.kept if line.accuracy_drop is None]
    if no_drop:
        yield f"Accuracy drop unknown, and no limit on it: {', '.join(no_drop)}."
    no_kinds = [str(line.plan) for line in seen.kept if line.accuracy_drop is not None and line.worst_kind is None]
    if no_kinds:
        yield f"Drop by kind of question unknown, and no limit on it: {', '.join(no_kinds)}."


def _limit_s(line: CostLine, seen: View) -> float:
    return line.latency_s(math.inf, seen.rtt_s, seen.n_tokens)


def as_json(seen: View) -> dict[str, object]:
    """Returns the spans, fastest links first."""
    return {
        "model": seen.profiles.model,
        "rtt_s": seen.rtt_s,
        "tokens": seen.n_tokens,
        "spans": [
            {
                "low_bps": span.low_bps,
                "high_bps": span.high_bps if math.isfinite(span.high_bps) else None,
                "plan": str(span.line.plan),
                "payload_bytes": span.line.payload_bytes,
                "accuracy_drop": span.line.accuracy_drop,
                "worst_kind": asdict(span.line.worst_kind) if span.line.worst_kind else None,
                "leak": span.line.leak,
            }
            for span in seen.spans
        ],
        "table": [str(line.plan) for line in seen.kept],
        "forbidden": {
            str(line.plan): [asdict(objection) for objection in objections] for line, objections in seen.forbidden
        },
    }


def draw(seen: View, file: Path) -> None:
    """Draws latency over the uplink rate as a PNG, the fastest plan's span coloured. Raises UsageError."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    figure, axis = pyplot.subplots(figsize=(9, 5), layout="constrained")
    slowest_bps, fastest_bps = axis_of(seen)
    steps = [slowest_bps * (fastest_bps / slowest_bps) ** (step / 200) for step in range(201)]
    kbit = [bps / 1e3 for bps in steps]
    best = {span.line.key for span in seen.spans}
    for line in seen.kept:
        if line.key not in best:
            axis.plot(kbit, _times(line, steps, seen), color="0.8", lw=0.8, zorder=1)
    for index, span in enumerate(seen.spans):
        colour = COLOURS[index % len(COLOURS)]
        axis.plot(kbit, _times(span.line, steps, seen), color=colour, lw=1.8, label=str(span.line.plan))
        low, high = max(span.low_bps, slowest_bps), min(span.high_bps, fastest_bps)
        if low < high:
            axis.axvspan(low / 1e3, high / 1e3, color=colour, alpha=0.12, lw=0)
    axis.set(xscale="log", yscale="log", xlabel="uplink, kbit/s", ylabel="latency, s", xlim=(kbit[0], kbit[-1]))
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_title(f"{seen.profiles.model}: cost lines, RTT {1e3 * seen.rtt_s:g} ms, {seen.n_tokens} decoding steps")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    _save(figure, file)
    pyplot.close(figure)


def axis_of(seen: View) -> tuple[float, float]:
    """Returns the rates from which to which the picture goes: a span that lies off it would be a colour that nobody finds."""
    crossings = [span.low_bps for span in seen.spans if span.low_bps]
    return min([SLOWEST_BPS, *(bps / 3 for bps in crossings)]), max([FASTEST_BPS, *(3 * bps for bps in crossings)])


def _save(figure: Any, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=130)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"Cannot write {file}: {error}.", advice="Choose a .png file in a folder that exists."
        ) from error


def _times(line: CostLine, rates: Sequence[float], seen: View) -> list[float]:
    return [line.latency_s(bps, seen.rtt_s, seen.n_tokens) for bps in rates]
