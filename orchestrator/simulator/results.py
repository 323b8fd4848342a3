"""Results are what a simulation gave: columns of each run, their summary, and the comparison as CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

FIELDS = (
    "device", "arrival_s", "start_s", "plan", "hedged", "device_won", "latency_s", "first_token_s", "predicted_s",
    "payload_bytes", "energy_j", "accuracy_drop",
)  # fmt: skip


class Record(NamedTuple):
    """Records one request. Latency and first token count from the arrival; bytes are the uplink's, a lost hedge's too."""

    device: int
    arrival_s: float
    start_s: float
    plan: str
    hedged: bool
    device_won: bool
    latency_s: float
    first_token_s: float
    predicted_s: float  # from the start; 0 where the contender predicts nothing
    payload_bytes: float
    energy_j: float
    accuracy_drop: float | None  # None: unknown


@dataclass(slots=True)
class Run:
    """Records all requests of one contender over one trace, as columns: a fleet's run has a million rows."""

    contender: str
    trace: str
    plans: list[str] = field(default_factory=list)
    device: array[int] = field(default_factory=lambda: array("l"))
    arrival_s: array[float] = field(default_factory=lambda: array("d"))
    start_s: array[float] = field(default_factory=lambda: array("d"))
    plan: array[int] = field(default_factory=lambda: array("h"))
    hedged: array[int] = field(default_factory=lambda: array("b"))
    device_won: array[int] = field(default_factory=lambda: array("b"))
    latency_s: array[float] = field(default_factory=lambda: array("d"))
    first_token_s: array[float] = field(default_factory=lambda: array("d"))
    predicted_s: array[float] = field(default_factory=lambda: array("d"))
    payload_bytes: array[float] = field(default_factory=lambda: array("d"))
    energy_j: array[float] = field(default_factory=lambda: array("d"))
    accuracy_drop: array[float] = field(default_factory=lambda: array("d"))  # NaN: unknown
    probe_bytes: float = 0.0
    switches: int = 0

    def records(self) -> Iterator[Record]:
        """Yields the rows in the order in which the requests ended."""
        for row in zip(*(getattr(self, name) for name in FIELDS), strict=True):
            values = dict(zip(FIELDS, row, strict=True))
            values |= {"plan": self.plans[row[3]], "hedged": bool(row[4]), "device_won": bool(row[5])}
            values["accuracy_drop"] = _known(values["accuracy_drop"])
            yield Record(**values)


@dataclass(frozen=True, slots=True)
class Summary:
    """Holds the figures of one run. Regret is against the oracle's mean; None without one."""

    contender: str
    requests: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    first_token_mean_s: float
    deadline_misses: float | None  # share
    bytes_mean: float  # a request, probes included,
    probe_bytes_mean: float  # which are so many of them
    energy_mean_j: float
    accuracy_drop: float | None  # mean; None, unknown, where it is of any request
    switches: int
    hedged: float  # share
    device_won: float  # share
    regret: float | None
    plans: dict[str, float]  # share of the requests


def summarise(run: Run, deadline_s: float | None, oracle_mean_s: float | None) -> Summary:
    """Returns the figures of one run."""
    count = len(run.latency_s)
    ordered = sorted(run.latency_s)
    mean_s = sum(ordered) / count
    return Summary(
        contender=run.contender,
        requests=count,
        mean_s=mean_s,
        p50_s=percentile(ordered, 0.50),
        p95_s=percentile(ordered, 0.95),
        p99_s=percentile(ordered, 0.99),
        first_token_mean_s=sum(run.first_token_s) / count,
        deadline_misses=None if deadline_s is None else sum(s > deadline_s for s in ordered) / count,
        bytes_mean=(sum(run.payload_bytes) + run.probe_bytes) / count,
        probe_bytes_mean=run.probe_bytes / count,
        energy_mean_j=sum(run.energy_j) / count,
        accuracy_drop=_known(sum(run.accuracy_drop) / count),
        switches=run.switches,
        hedged=sum(run.hedged) / count,
        device_won=sum(run.device_won) / count,
        regret=None if oracle_mean_s is None else mean_s / oracle_mean_s - 1,
        plans={run.plans[index]: times / count for index, times in Counter(run.plan).most_common()},
    )


def _known(drop: float) -> float | None:
    """Returns None for NaN, by which columns tell what is unknown."""
    return None if math.isnan(drop) else drop


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns a quantile of rising values, linear between neighbours (numpy's default)."""
    rank = share * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares all contenders over one trace. `notes` state the factors and what the figures do not show."""

    scenario: str
    trace: str
    notes: tuple[str, ...]
    runs: tuple[Run, ...]
    summaries: tuple[Summary, ...]

    def of(self, contender: str) -> Summary:
        """Returns the summary of one contender."""
        return next(summary for summary in self.summaries if summary.contender == contender)

    @property
    def best_fixed(self) -> tuple[Summary, Summary]:
        """Returns the best choices that a user could have made by hand, in hindsight: by mean and by 95th percentile."""
        fixed = [s for s in self.summaries if s.contender not in ("adaptive", "adaptive-nohedge", "oracle")]
        return min(fixed, key=lambda s: s.mean_s), min(fixed, key=lambda s: s.p95_s)


def write_csv(path: Path, comparison: Comparison) -> None:
    """Writes one row a request and contender."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("contender", *FIELDS))
        for run in comparison.runs:
            rows.writerows((run.contender, *record) for record in run.records())


def write_json(path: Path, comparison: Comparison) -> None:
    """Writes the summaries."""
    content = {
        "scenario": comparison.scenario,
        "trace": comparison.trace,
        "simulated": True,
        "notes": comparison.notes,
        "summaries": [asdict(summary) for summary in comparison.summaries],
    }
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
