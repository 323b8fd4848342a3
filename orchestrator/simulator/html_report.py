"""The report: PNG files, and one HTML page that needs nothing else, not even a script. It begins with the conclusion."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.simulator import plots
from orchestrator.simulator.results import Comparison, Summary
from orchestrator.simulator.verdict import over_all, verdict
from splitvlm.errors import UsageError
from splitvlm.files.shown import fixed, number, percent

STYLE = """
:root { color-scheme: light dark; --line: #8886; --best: #22883333; --box: #4477aa1f; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 1rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.conclusion h2 { margin-top: 0.5rem; }
.conclusion { background: var(--box); border-radius: 6px; padding: 0.5rem 1rem; }
figure { margin: 1rem 0; } figcaption { font-size: 0.9rem; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.85rem; overflow-wrap: normal; }
th, td { padding: 0.2rem 0.5rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; } th { vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
.best { background: var(--best); } .ours { font-weight: 600; }
dt { font-weight: 600; } dd { margin: 0 0 0.4rem 1rem; }
@media (max-width: 40rem) {
  .short .more { display: none; }
  .short table { font-size: 0.78rem; } .short th, .short td { padding: 0.2rem 0.25rem; }
  .short td:first-child { max-width: 7rem; overflow-wrap: anywhere; }
}
"""
MOST_ROWS = 10  # of the short table; the long one has all


class Column(NamedTuple):
    """A figure of a contender: its head, how it is told, and whether a phone's width has room for it."""

    head: str
    value: Callable[[Summary], float | None]
    shown: Callable[[float], str]
    meaning: str
    always: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("mean, s", lambda s: s.mean_s, lambda x: fixed(x, 3), "from a question to the end of its answer", True),
    Column("p50, s", lambda s: s.p50_s, lambda x: fixed(x, 3), "half of the answers came within this time"),
    Column("p95, s", lambda s: s.p95_s, lambda x: fixed(x, 3), "95 of 100 answers came within this time", True),
    Column("p99, s", lambda s: s.p99_s, lambda x: fixed(x, 3), "99 of 100 answers came within this time"),
    Column(
        "first token, s", lambda s: s.first_token_mean_s, lambda x: fixed(x, 3), "mean time to the answer's first token"
    ),
    Column("late", lambda s: s.deadline_misses, percent, "share of answers after the scenario's deadline", True),
    Column(
        "kB", lambda s: s.bytes_mean / 1e3, lambda x: fixed(x, 2), "sent a question, probes of the link included", True
    ),
    Column("energy, J", lambda s: s.energy_mean_j, lambda x: fixed(x, 2), "of the device, a question"),
    Column(
        "drop, points",
        lambda s: 100 * s.accuracy_drop,
        lambda x: fixed(x, 2),
        "answers of a hundred lost by coding",
        True,
    ),
    Column("changes", lambda s: s.switches, lambda x: fixed(x, 0), "how often the plan changed"),
    Column(
        "regret",
        lambda s: s.regret,
        percent,
        "mean above the oracle's; 3 x is three times it",
        True,
    ),
)
ROWS_MEAN = (
    ("oracle", "picks the best plan for each question by knowing the link: nobody can have it"),
    ("adaptive", "the policy of the edge node: it measures the link and picks the plan of each question"),
    ("adaptive-nohedge", "the same without the device working beside the cloud"),
    ("adaptive-jpeg, adaptive-picture", "pictures whose quality follows the link (of JPEG; of any format)"),
    ("cut/level", "always this plan, such as image/jpeg75: the picture as JPEG of quality 75"),
    ("device/none", "the device answers everything alone"),
    ("hedge:...", "with the device working on the same question beside it; the first answer counts"),
)


def write_report(comparisons: Sequence[Comparison], folder: Path, stem: Callable[[Comparison], str]) -> list[Path]:
    """PNG files of each comparison, named by `stem`, and `report.html`. Raises UsageError where it cannot be written."""
    written = []
    parts = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for comparison in by_changes(comparisons):
            parts.append(f"<h2>{html.escape(Path(comparison.trace).name)}</h2>{_concluded(comparison)}")
            for name, png, caption in _pictures(comparison):
                file = folder / f"{stem(comparison)}-{name}.png"
                file.write_bytes(png)
                written.append(file)
                parts.append(_figure(png, caption))
            parts.append(_tables(comparison))
        page = folder / "report.html"
        page.write_text(_page(comparisons, parts), "utf-8")
    except OSError as error:
        raise UsageError(
            f"Cannot write to {folder}: {error.strerror}.", advice="Choose another --out folder."
        ) from error
    return [*written, page]


def by_changes(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The traces on which the adaptive policy changes its plan most often come first: there is something to see."""
    return sorted(comparisons, key=lambda comparison: -comparison.of("adaptive").switches)


def _pictures(comparison: Comparison) -> Iterator[tuple[str, bytes, str]]:
    yield ("timeline", *plots.timeline(comparison))
    if len(comparison.runs) > 1:
        yield ("spread", *plots.spread(comparison))
        yield ("regret", *plots.regret(comparison))


def _figure(png: bytes, caption: str) -> str:
    data, words = base64.b64encode(png).decode("ascii"), html.escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def _page(comparisons: Sequence[Comparison], parts: Sequence[str]) -> str:
    title = html.escape(f"Simulation: {comparisons[0].scenario}")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in comparisons[0].notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{title}</h1>{_conclusion(comparisons)}<p>All times on this page are simulated.</p><ul>{notes}</ul>"
        f"{_legend()}{''.join(parts)}</body></html>\n"
    )


def _conclusion(comparisons: Sequence[Comparison]) -> str:
    """What to take, on each link and over all of them."""
    verdicts = [told for comparison in comparisons if (told := verdict(comparison)) is not None]
    if not verdicts:
        return ""
    rows = "".join(f"<li><b>{html.escape(told.trace)}</b>: {html.escape(told.in_short)}</li>" for told in verdicts)
    return (
        f'<div class="conclusion"><h2>Conclusion</h2><p>{html.escape(over_all(comparisons))}</p><ul>{rows}</ul></div>'
    )


def _concluded(comparison: Comparison) -> str:
    told = verdict(comparison)
    if told is None:
        return ""
    others = ", ".join(f"{words} {number(seconds)} s" for words, seconds in told.baselines)
    beside = f" For comparison: {others}." if others else ""
    return f"<p>{html.escape(told.sentence + beside)}</p>"


def _legend() -> str:
    columns = "".join(f"<dt>{html.escape(c.head)}</dt><dd>{html.escape(c.meaning)}</dd>" for c in COLUMNS)
    rows = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning)}</dd>" for name, meaning in ROWS_MEAN)
    return f"<details><summary>How to read the tables</summary><dl>{columns}</dl><p>Rows:</p><dl>{rows}</dl></details>"


def _tables(comparison: Comparison) -> str:
    """The best rows, with the columns that a phone has room for; then everything, to be opened."""
    ranked = sorted(comparison.summaries, key=lambda summary: summary.mean_s)
    named = ("adaptive", "adaptive-jpeg", "device/none")
    short = [s for place, s in enumerate(ranked) if place < MOST_ROWS or s.contender in named]
    every = f"<details><summary>All {len(ranked)} contenders</summary>{_table(ranked, 'wide')}</details>"
    return _table(short, "wide short") + (every if len(short) < len(ranked) else "")


def _table(rows: Sequence[Summary], kind: str) -> str:
    columns = [column for column in COLUMNS if any(column.value(summary) is not None for summary in rows)]
    least = [_least(column, rows) for column in columns]
    head = "".join(f"<th{_class(column)}>{html.escape(column.head)}</th>" for column in columns)
    body = "".join(_row(summary, columns, least) for summary in rows)
    return f'<div class="{kind}"><table><thead><tr><th>contender</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _least(column: Column, rows: Sequence[Summary]) -> float:
    """The best value of all but the oracle, which nobody can have."""
    values = (column.value(summary) for summary in rows if summary.contender != "oracle")
    return min((value for value in values if value is not None), default=0.0)


def _class(column: Column, best: bool = False) -> str:
    names = [*([] if column.always else ["more"]), *(["best"] if best else [])]
    return f' class="{" ".join(names)}"' if names else ""


def _row(summary: Summary, columns: Sequence[Column], least: Sequence[float]) -> str:
    cells = []
    for column, best in zip(columns, least, strict=True):
        value = column.value(summary)
        marked = value is not None and value == best and summary.contender != "oracle"
        cells.append(f"<td{_class(column, marked)}>{'' if value is None else column.shown(value)}</td>")
    ours = ' class="ours"' if summary.contender == "adaptive" else ""
    return f"<tr{ours}><td>{html.escape(summary.contender)}</td>{''.join(cells)}</tr>"
