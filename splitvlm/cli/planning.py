"""`splitvlm plan` and `simulate`: which plan is the fastest where, without the nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import finite, writable_file, writable_folder
from splitvlm.cli.output import JsonOption, write_json

planning_app = typer.Typer()


@planning_app.command()
def plan(
    profiles: Annotated[Path, typer.Argument(help="file written by `splitvlm profile`")],
    rtt_ms: Annotated[float, typer.Option(callback=finite, min=0)] = 50.0,
    tokens: Annotated[int, typer.Option(min=0, help="decoding steps of an answer")] = 8,
    slowdown: Annotated[
        float, typer.Option(callback=finite, min=0.001, help="of the device, against the profile")
    ] = 1.0,
    speedup: Annotated[float, typer.Option(callback=finite, min=0.001, help="of the cloud, against the profile")] = 1.0,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(callback=finite, min=0, max=1, help="0.01 is one point")
    ] = None,
    max_kind_drop: Annotated[
        float, typer.Option(callback=finite, min=0, max=1, help="of any one kind of question; 1 forbids nothing")
    ] = 0.03,
    max_leak: Annotated[
        float | None,
        typer.Option(callback=finite, min=0, max=1, help="of a picture; what was not measured leaks 1"),
    ] = None,
    device_memory_bytes: Annotated[int | None, typer.Option(min=1)] = None,
    every: Annotated[bool, typer.Option("--all", help="also name what was left out")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="why, with numbers")] = False,
    png: Annotated[Path | None, typer.Option(callback=writable_file, help="a picture of the cost lines")] = None,
    json_file: JsonOption = None,
) -> None:
    """Print for which uplink rates each plan is the fastest."""
    from rich.console import Console

    from orchestrator.plan_view import as_json, draw, show, view
    from splitvlm.planning.profilefiles import read, scaled
    from splitvlm.planning.table import PlanLimits

    limits = PlanLimits(
        max_accuracy_drop=max_accuracy_drop,
        max_kind_drop=max_kind_drop,
        device_memory_bytes=device_memory_bytes,
        max_leak=max_leak,
    )
    made = scaled(read(profiles), device_slowdown=slowdown, cloud_speedup=speedup)
    seen = view(made, limits, rtt_ms / 1e3, tokens)
    show(seen, Console(), every=every, explain=explain)
    if png is not None:
        draw(seen, png)
    write_json(json_file, as_json(seen))


@planning_app.command()
def simulate(
    config: Annotated[Path, typer.Argument(help="scenario file, see examples/simulate-*.yaml")],
    trace: Annotated[list[str] | None, typer.Option(help="instead of the scenario's traces; may be repeated")] = None,
    out: Annotated[
        Path, typer.Option(callback=writable_folder, help="folder for CSV, JSON, plots and the page")
    ] = Path("out"),
    emulate: Annotated[
        bool,
        typer.Option("--emulate", help="also run the workload through real processes over a shaped link, and compare"),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Replay traces under the policy, every fixed plan, JPEG by the link and the oracle. All times are simulated."""
    from rich.console import Console

    from orchestrator.simulator.console import save, show, stem
    from orchestrator.simulator.html_report import write_report
    from orchestrator.simulator.results import Comparison
    from orchestrator.simulator.run import compare
    from orchestrator.simulator.scenario import Scenario
    from splitvlm import settings

    console = Console()
    if emulate:
        from splitvlm.tools.emulated_runs import emulate as really

        write_json(json_file, really(settings.load(config, Scenario), trace or (), console))
        return
    comparisons: list[Comparison] = []
    for comparison in compare(settings.load(config, Scenario), traces=trace or ()):
        if not comparisons:
            for note in comparison.notes:
                console.print(note, soft_wrap=True, highlight=False)
        comparisons.append(comparison)
        show(comparison, console)
        save(comparison, out)
    *_, page = write_report(comparisons, out, stem)
    console.print(f"Requests, figures and plots are in {out}; the report is {page}.", soft_wrap=True, highlight=False)
