"""`splitvlm load`: a cloud node's figures under the load of many devices."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from edge_node.cloud.link import CloudLink
from edge_node.node import compatibility_of
from splitvlm.bundle import open_bundle
from splitvlm.crypto.authority import issue
from splitvlm.crypto.identity import Identity, Role, load_identity
from splitvlm.domain import GREEDY, Plan, Sampling
from splitvlm.tools.launcher import Launcher
from splitvlm.tools.load.figures import figures
from splitvlm.tools.load.fleet import Fleet, PlannedRequest
from splitvlm.tools.load.objective import ServiceObjective
from splitvlm.tools.load.plot import plot
from splitvlm.tools.load.recording import RecordedRequest, check_plan, record
from splitvlm.tools.load.schedule import AnswerLengths, poisson_arrivals_s
from splitvlm.tools.load.timing import RequestTiming

_console = Console(stderr=True)
ROWS = {
    "ttft_ms": "first token (TTFT)",
    "itl_ms": "between tokens (ITL)",
    "tpot_ms": "per token (TPOT)",
    "e2e_ms": "answer (E2E)",
}


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """Holds the settings of one run. Without `cloud`, a cloud node is started here, with `cloud_settings` beside the model."""

    model: str
    plan: Plan
    devices: int
    requests: int
    lengths: AnswerLengths
    objective: ServiceObjective
    requests_per_s: float | None = None  # of an open loop; None is a closed loop
    recordings: int = 8  # different payloads
    sampling: Sampling = GREEDY  # where it draws, payload number i of the run is asked with `seed` + i
    seed: int = 0
    threads: int | None = None
    dtype: str = "float32"
    cloud: str = ""
    authority: Path | None = (
        None  # folder of the authority that the node trusts; certificates `load-N` are issued in it
    )
    plaintext: bool = False


async def run_load(settings: LoadSettings, plot_file: Path | None = None) -> dict[str, Any]:
    """Records, asks, prints a table, draws the plot. Returns the figures.

    Raises what `check_plan` and opening sessions raise.
    """
    bundle = open_bundle(settings.model)
    spec, codec = bundle.spec, bundle.codec
    check_plan(settings.plan, spec, codec)
    _console.print(f"Recording {settings.recordings} payloads of {settings.plan} with {settings.model} ...")
    recorded = record(
        *(settings.model, settings.plan, settings.recordings, codec, settings.sampling),
        seed=settings.seed,
        threads=settings.threads,
    )
    compatibility = compatibility_of(spec, codec, settings.dtype)
    async with _node(settings) as (address, identities):
        cuts = [str(settings.plan.cut)]
        links = [CloudLink(address, compatibility, identity, cuts) for identity in identities]
        timings = await _asked(settings, links, recorded)
    result = {"model": settings.model, "plan": str(settings.plan), "devices": settings.devices, "loop": _loop(settings)}
    result |= figures(timings, settings.objective)
    _print(result)
    if plot_file is not None:
        plot(plot_file, timings, f"{settings.model}, {settings.plan}: {settings.devices} devices, {_loop(settings)}")
    return result


@contextlib.asynccontextmanager
async def _node(settings: LoadSettings) -> AsyncIterator[tuple[str, Sequence[Identity | None]]]:
    """Yields the node's address and the devices' identities."""
    names = [f"load-{index + 1}" for index in range(settings.devices)]
    if settings.cloud:
        yield settings.cloud, [None if settings.plaintext else _identity(settings.authority, name) for name in names]
        return
    with tempfile.TemporaryDirectory(prefix="splitvlm-load-") as folder:
        async with Launcher(Path(folder)) as launcher:
            _console.print("Starting a cloud node ...")
            model = {"name": settings.model, "dtype": settings.dtype, "threads": settings.threads}
            limits = {"max_sessions": max(64, 2 * settings.devices), "max_new_tokens": max(512, settings.lengths.most)}
            cloud = await launcher.start("cloud", {"model": model, "cuts": [str(settings.plan.cut)], "limits": limits})
            yield cloud.address, [launcher.identity(name, Role.EDGE) for name in names]


def _identity(authority: Path | None, name: str) -> Identity:
    folder = (authority or Path("keys")) / name
    return load_identity(folder if folder.exists() else issue(folder.parent, name, Role.EDGE))


async def _asked(
    settings: LoadSettings, links: Sequence[CloudLink], recorded: Sequence[RecordedRequest]
) -> list[RequestTiming]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console) as progress:
        bar = progress.add_task("requests", total=settings.requests)
        fleet = Fleet(links, lambda _timing: progress.advance(bar))
        try:
            await fleet.open()
            await _warm_up(fleet, settings, recorded)
            progress.reset(bar, total=settings.requests)
            requests = _requests(settings, recorded)
            if settings.requests_per_s is None:
                return await fleet.closed_loop(requests)
            return await fleet.open_loop(requests)
        finally:
            await fleet.close()


async def _warm_up(fleet: Fleet, settings: LoadSettings, recorded: Sequence[RecordedRequest]) -> None:
    """Asks each payload once, uncounted: the node allocates, and at `lm:k` the answer's steps are recorded."""
    for request in recorded:
        await fleet.closed_loop([PlannedRequest(request, settings.lengths.most)])
        request.recorded()


def _requests(settings: LoadSettings, recorded: Sequence[RecordedRequest]) -> list[PlannedRequest]:
    count = settings.requests
    lengths = settings.lengths.draw(count, settings.seed)
    rate = settings.requests_per_s
    due_s = poisson_arrivals_s(rate, count, settings.seed) if rate is not None else [0.0] * count
    return [
        PlannedRequest(recorded[index % len(recorded)], length, at_s)
        for index, (length, at_s) in enumerate(zip(lengths, due_s, strict=True))
    ]


def _loop(settings: LoadSettings) -> str:
    if settings.requests_per_s is None:
        return "closed loop"
    return f"open loop, {settings.requests_per_s:g} requests/s"


def _print(result: dict[str, Any]) -> None:
    table = Table("milliseconds", "mean", "p50", "p95", "p99", title=f"{result['devices']} devices, {result['plan']}")
    names = {
        "ttft_ms": "first token (TTFT)",
        "itl_ms": "between tokens (ITL)",
        "tpot_ms": "per token (TPOT)",
        "e2e_ms": "answer (E2E)",
    }
    for key, name in names.items():
        table.add_row(name, *(f"{value:.1f}" for value in result[key].values()))
    console = Console()
    console.print(table)
    console.print(
        f"{result['answered']} of {result['requests']} requests answered in {result['duration_s']:.1f} s: "
        f"{result['output_tokens_per_s']:.1f} tokens/s, {result['requests_per_s']:.2f} requests/s, "
        f"goodput {result['goodput_per_s']:.2f} requests/s ({100 * result['goodput_share']:.0f} %)."
    )
    if result["failed"]:
        console.print(f"Failed: {', '.join(f'{count} x {code}' for code, count in result['failed'].items())}.")
