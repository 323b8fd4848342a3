"""The report: PNG files, and one HTML page that needs nothing else, not even a script."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.simulator import plots
from orchestrator.simulator.results import Comparison, Summary
from splitvlm.errors import UsageError

STYLE = """
:root { color-scheme: light dark; --line: #8886; --best: #22883333; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { max-width: 100%; background: white; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.best { background: var(--best); } .ours { font-weight: 600; }
"""

Column = tuple[str, Callable[[Summary], float | None], str]
COLUMNS: tuple[Column, ...] = (
    ("mean, s", lambda s: s.mean_s, "{:.3f}"),
    ("p50, s", lambda s: s.p50_s, "{:.3f}"),
    ("p95, s", lambda s: s.p95_s, "{:.3f}"),
    ("p99, s", lambda s: s.p99_s, "{:.3f}"),
    ("first token, s", lambda s: s.first_token_mean_s, "{:.3f}"),
    ("late, %", lambda s: None if s.deadline_misses is None else 100 * s.deadline_misses, "{:.1f}"),
    ("kB a request", lambda s: s.bytes_mean / 1e3, "{:.2f}"),
    ("energy, J", lambda s: s.energy_mean_j, "{:.2f}"),
    ("accuracy drop, points", lambda s: 100 * s.accuracy_drop, "{:.2f}"),
    ("changes of plan", lambda s: s.switches, "{:.0f}"),
    ("regret, %", lambda s: None if s.regret is None else 100 * s.regret, "{:.1f}"),
)


def write_report(comparisons: Sequence[Comparison], folder: Path, stem: Callable[[Comparison], str]) -> list[Path]:
    """PNG files of each comparison, named by `stem`, and `report.html`. Raises UsageError where it cannot be written."""
    written = []
    parts = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for comparison in comparisons:
            parts.append(f"<h2>{html.escape(Path(comparison.trace).name)}</h2>")
            for name, alt, png in _pictures(comparison):
                file = folder / f"{stem(comparison)}-{name}.png"
                file.write_bytes(png)
                written.append(file)
                parts.append(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{_inline(png)}">')
            parts.append(_table(comparison))
        page = folder / "report.html"
        page.write_text(_page(comparisons[0], parts), "utf-8")
    except OSError as error:
        raise UsageError(
            f"Cannot write to {folder}: {error.strerror}.", advice="Choose another --out folder."
        ) from error
    return [*written, page]


def _pictures(comparison: Comparison) -> Iterator[tuple[str, str, bytes]]:
    yield (
        "timeline",
        "Uplink rate with the chosen plans as bands, and each request's latency",
        plots.timeline(comparison),
    )
    if len(comparison.runs) > 1:
        yield "spread", "Cumulative distribution of latency by contender", plots.spread(comparison)
        yield "regret", "Mean latency above the oracle's by contender", plots.regret(comparison)


def _inline(png: bytes) -> str:
    return base64.b64encode(png).decode("ascii")


def _page(comparison: Comparison, parts: Sequence[str]) -> str:
    title = html.escape(f"Simulation: {comparison.scenario}")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in comparison.notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{title}</h1><p>All times on this page are simulated.</p><ul>{notes}</ul>{''.join(parts)}</body></html>\n"
    )


def _table(comparison: Comparison) -> str:
    rows = sorted(comparison.summaries, key=lambda summary: summary.mean_s)
    columns = [column for column in COLUMNS if any(column[1](summary) is not None for summary in rows)]
    least = [_least(column, rows) for column in columns]
    head = "".join(f"<th>{html.escape(name)}</th>" for name, _, _ in columns)
    body = "".join(_row(summary, columns, least) for summary in rows)
    return (
        f'<div class="wide"><table><thead><tr><th>contender</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _least(column: Column, rows: Sequence[Summary]) -> float:
    """The best value of all but the oracle, which nobody can have."""
    values = (column[1](summary) for summary in rows if summary.contender != "oracle")
    return min((value for value in values if value is not None), default=0.0)


def _row(summary: Summary, columns: Sequence[Column], least: Sequence[float]) -> str:
    cells = []
    for (_, value_of, form), best in zip(columns, least, strict=True):
        value = value_of(summary)
        marked = ' class="best"' if value is not None and value == best and summary.contender != "oracle" else ""
        cells.append(f"<td{marked}>{'' if value is None else form.format(value)}</td>")
    ours = ' class="ours"' if summary.contender == "adaptive" else ""
    return f"<tr{ours}><td>{html.escape(summary.contender)}</td>{''.join(cells)}</tr>"
