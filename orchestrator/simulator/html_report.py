"""The report of a simulation: PNG files, and one HTML page, which needs nothing but itself.

The page (`report.html.jinja`) holds its plots and styles and has no script. It begins with the conclusion.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.simulator import plots
from orchestrator.simulator.results import Comparison, Summary
from orchestrator.simulator.verdict import over_all, verdict
from splitvlm.errors import UsageError
from splitvlm.files.shown import fixed, number, percent

MOST_ROWS = 10  # of the short table; the long one has all


class Column(NamedTuple):
    """Describes a figure of a contender: its head, how it is written, and whether a phone's width has room for it."""

    head: str
    value: Callable[[Summary], float | None]
    shown: Callable[[float], str]
    meaning: str
    always: bool = False
    absent: str = ""  # what stands for a value that is None; a column of nothing else is left out without one


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
        lambda s: None if s.accuracy_drop is None else 100 * s.accuracy_drop,
        lambda x: fixed(x, 2),
        "answers of a hundred lost by coding; unknown where nobody measured it",
        True,
        "unknown",
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


class Cell(NamedTuple):
    """Holds a figure in a table, as text, with its CSS classes."""

    text: str
    classes: str


class TableRow(NamedTuple):
    """Holds a contender's line of a table; `ours` marks the adaptive policy's."""

    contender: str
    cells: list[Cell]
    ours: bool


class Head(NamedTuple):
    """Holds the head of a table's column, with its CSS classes."""

    head: str
    classes: str


class Table(NamedTuple):
    """Holds a table as the template shows it."""

    columns: list[Head]
    rows: list[TableRow]


class Figure(NamedTuple):
    """Holds a plot as the template shows it: the PNG file in base64."""

    caption: str
    base64: str


class LinkSection(NamedTuple):
    """Holds what the page says of one link. `every` holds the table of all contenders where `best` leaves some out."""

    trace: str
    conclusion: str
    figures: list[Figure]
    best: Table
    every: Table | None


def write_report(comparisons: Sequence[Comparison], folder: Path, stem: Callable[[Comparison], str]) -> list[Path]:
    """Writes PNG files of each comparison, named by `stem`, and `report.html`. Returns the paths.

    Raises UsageError where the folder cannot be written.
    """
    written: list[Path] = []
    sections = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for comparison in by_changes(comparisons):
            figures = []
            for name, png, caption in _plots(comparison):
                file = folder / f"{stem(comparison)}-{name}.png"
                file.write_bytes(png)
                written.append(file)
                figures.append(Figure(caption, base64.b64encode(png).decode("ascii")))
            sections.append(_section(comparison, figures))
        page = folder / "report.html"
        page.write_text(_render(comparisons, sections), "utf-8")
    except OSError as error:
        raise UsageError(
            f"Cannot write to {folder}: {error.strerror}.", advice="Choose another --out folder."
        ) from error
    return [*written, page]


def by_changes(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Sorts the traces so that those on which the adaptive policy changes its plan most often come first."""
    return sorted(comparisons, key=lambda comparison: -comparison.of("adaptive").switches)


def _plots(comparison: Comparison) -> Iterator[tuple[str, bytes, str]]:
    """Yields the name, the PNG file and the caption of each plot."""
    yield ("timeline", *plots.timeline(comparison))
    if len(comparison.runs) > 1:
        yield ("spread", *plots.spread(comparison))
        yield ("regret", *plots.regret(comparison))


def _render(comparisons: Sequence[Comparison], sections: Sequence[LinkSection]) -> str:
    environment = Environment(
        loader=PackageLoader("orchestrator.simulator", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=f"Simulation: {comparisons[0].scenario}",
        verdicts=[conclusion for comparison in comparisons if (conclusion := verdict(comparison)) is not None],
        overall=over_all(comparisons),
        notes=comparisons[0].notes,
        legend={"columns": COLUMNS, "rows": ROWS_MEAN},
        sections=sections,
    )


def _section(comparison: Comparison, figures: list[Figure]) -> LinkSection:
    """Shows the best rows first; where there are more, a second table holds all."""
    ranked = sorted(comparison.summaries, key=lambda summary: summary.mean_s)
    always = ("adaptive", "adaptive-jpeg", "device/none")
    best = [s for rank, s in enumerate(ranked) if rank < MOST_ROWS or s.contender in always]
    every = _table(ranked) if len(best) < len(ranked) else None
    return LinkSection(Path(comparison.trace).name, _conclusion(comparison), figures, _table(best), every)


def _conclusion(comparison: Comparison) -> str:
    conclusion = verdict(comparison)
    if conclusion is None:
        return ""
    baselines = ", ".join(f"{words} {number(seconds)} s" for words, seconds in conclusion.baselines)
    return conclusion.sentence + (f" For comparison: {baselines}." if baselines else "")


def _table(summaries: Sequence[Summary]) -> Table:
    columns = [column for column in COLUMNS if column.absent or any(column.value(row) is not None for row in summaries)]
    least = [_least(column, summaries) for column in columns]
    heads = [Head(column.head, _classes(column)) for column in columns]
    return Table(heads, [_row(summary, columns, least) for summary in summaries])


def _least(column: Column, summaries: Sequence[Summary]) -> float:
    """Returns the best value of all but the oracle, which nobody can have."""
    values = (column.value(summary) for summary in summaries if summary.contender != "oracle")
    return min((value for value in values if value is not None), default=0.0)


def _row(summary: Summary, columns: Sequence[Column], least: Sequence[float]) -> TableRow:
    cells = []
    for column, best in zip(columns, least, strict=True):
        value = column.value(summary)
        is_best = value is not None and value == best and summary.contender != "oracle"
        cells.append(Cell(column.absent if value is None else column.shown(value), _classes(column, is_best)))
    return TableRow(summary.contender, cells, summary.contender == "adaptive")


def _classes(column: Column, is_best: bool = False) -> str:
    return " ".join([*([] if column.always else ["more"]), *(["best"] if is_best else [])])
