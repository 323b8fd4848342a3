"""`splitvlm plan` and `simulate`: which plan is the fastest where, without the nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import finite, writable_file, writable_folder
from splitvlm.cli.output import JsonOption, write_json

planning_app = typer.Typer()


MillisecondsOption = Annotated[
    float, typer.Option(callback=finite, min=0, help="round-trip time of the link, in milliseconds")
]
SlowdownOption = Annotated[
    float, typer.Option(callback=finite, min=0.001, help="factor by which the device is slower than in the profile")
]
SpeedupOption = Annotated[
    float, typer.Option(callback=finite, min=0.001, help="factor by which the cloud is faster than in the profile")
]
DropOption = Annotated[
    float | None,
    typer.Option(
        callback=finite, min=0, max=1, help="largest share of answers that a plan may lose; 0.01 is one point"
    ),
]
KindDropOption = Annotated[
    float,
    typer.Option(
        callback=finite,
        min=0,
        max=1,
        help="largest share that it may lose of any one kind of question; 1 forbids nothing",
    ),
]
LeakOption = Annotated[
    float | None,
    typer.Option(callback=finite, min=0, max=1, help="largest leak of a plan; one that was not measured counts as 1"),
]
MemoryOption = Annotated[int | None, typer.Option(min=1, help="memory of the device, in bytes")]


@planning_app.command()
def plan(
    profiles: Annotated[Path, typer.Argument(help="profile to plan for, written by `splitvlm profile`")],
    rtt_ms: MillisecondsOption = 50.0,
    tokens: Annotated[int, typer.Option(min=0, help="length of an answer, in tokens")] = 8,
    slowdown: SlowdownOption = 1.0,
    speedup: SpeedupOption = 1.0,
    max_accuracy_drop: DropOption = None,
    max_kind_drop: KindDropOption = 0.03,
    max_leak: LeakOption = None,
    device_memory_bytes: MemoryOption = None,
    every: Annotated[bool, typer.Option("--all", help="also list the plans that were left out")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="say why each plan wins, with numbers")] = False,
    png: Annotated[
        Path | None, typer.Option(callback=writable_file, help="PNG file for a plot of the cost lines")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Print for which uplink rates each plan is the fastest."""
    from rich.console import Console

    from orchestrator.plan_view import as_json, draw, show, view
    from splitvlm.planning.limits import PlanLimits
    from splitvlm.planning.profiles import scaled
    from splitvlm.profiling.profile_file import read

    limits = PlanLimits(
        max_accuracy_drop=max_accuracy_drop,
        max_kind_drop=max_kind_drop,
        device_memory_bytes=device_memory_bytes,
        max_leak=max_leak,
    )
    made = scaled(read(profiles), device_slowdown=slowdown, cloud_speedup=speedup)
    table_view = view(made, limits, rtt_ms / 1e3, tokens)
    show(table_view, Console(), every=every, explain=explain)
    if png is not None:
        draw(table_view, png)
    write_json(json_file, as_json(table_view))


@planning_app.command()
def simulate(
    config: Annotated[Path, typer.Argument(help="scenario file, such as examples/simulate-robot.yaml")],
    trace: Annotated[
        list[str] | None, typer.Option(help="trace to replay instead of the scenario's; may be repeated")
    ] = None,
    out: Annotated[
        Path, typer.Option(callback=writable_folder, help="folder for CSV, JSON, plots and the report")
    ] = Path("out"),
    emulate: Annotated[
        bool,
        typer.Option("--emulate", help="also run the workload through real processes over a shaped link, and compare"),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Replay traces under the policy, every fixed plan, JPEG adapted to the link, and an oracle.

    All times are simulated from measured profiles.
    """
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
