"""Adaptive against every simple alternative, over traces: `python benchmarks/policy.py [--traces DIR] [--trace FILE ...]`.

Runs the fixed scenarios of examples/bench-*.yaml (one request at a time, stated answer length and accuracy limit) over
each trace, prints a line for each, and last one JSON object. All times are simulated from measured profiles. Ratios are
against the best fixed plan in hindsight, chosen for each figure, with fixed hedges and JPEG by the link among the fixed.

`--fleet` simulates 250,000, 500,000 and 1,000,000 requests of 1,000 devices instead, and prints the seconds that it took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from recorded_traces import add_option, recorded_traces

from orchestrator.simulator.results import Comparison
from orchestrator.simulator.run import compare, oracle_plans
from orchestrator.simulator.scenario import Scenario
from splitvlm import settings
from splitvlm.errors import SplitvlmError

ROOT = Path(__file__).parents[1]
MADE = ("constant:300kbit", "step:5mbit@40,600kbit@40,60kbit@40", "outage:500kbit@50,10")
DIPS = ("synthetic:city", "synthetic:train", "synthetic:mall")  # fast links with rare dips, counted apart
LIMIT = 1.02  # of the best fixed plan
MOST_BYTES = 1.15  # of the questions' own, with all probes
FLEET = ROOT / "examples" / "simulate-fleet.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option(parser)
    parser.add_argument("--trace", action="append", help="instead of the recorded and the synthetic ones")
    parser.add_argument("--scenario", action="append", type=Path, help="instead of examples/bench-*.yaml")
    parser.add_argument("--fleet", action="store_true", help="how long a fleet takes to simulate")
    options = parser.parse_args()
    try:
        if options.fleet:
            print(json.dumps(fleet()))
        else:
            chosen = options.trace or [*recorded_traces(options.traces), *MADE, *DIPS]
            print(json.dumps(compared(chosen, options.scenario, set_apart=not options.trace)))
    except SplitvlmError as error:
        sys.exit(f"policy.py: {error}")


def compared(traces: list[str], files: list[Path] | None, *, set_apart: bool) -> dict[str, object]:
    """Prints a line for each scenario and trace; with `set_apart` the fast links with rare dips are counted apart."""
    figures: dict[str, dict[str, object]] = {}
    for file in files or sorted((ROOT / "examples").glob("bench-*.yaml")):
        scenario = settings.load(file, Scenario)
        print(
            f"\n{scenario.name}: {scenario.devices.slowdown:g} x slower device, {scenario.clouds[0].speedup:g} x faster cloud"
        )
        for comparison in compare(scenario, traces=traces):
            figures[f"{Path(comparison.trace).name}/{scenario.name}"] = line(comparison)
    dips = {name: row for name, row in figures.items() if name.startswith(DIPS) and set_apart}
    usual = {name: row for name, row in figures.items() if name not in dips}
    say("", usual)
    if dips:
        say("Fast links with rare dips: ", dips)
    print("Most plans that an oracle used for 10 % of its requests or more:", most_plans(figures))
    return {"traces": figures}


def say(title: str, figures: dict[str, dict[str, object]]) -> None:
    """How many are within the limits, and by how much the worst is not."""
    ratios = [(float(str(row["mean_ratio"])), float(str(row["p95_ratio"]))) for row in figures.values()]
    met = sum(mean <= LIMIT and p95 <= LIMIT for mean, p95 in ratios)
    worst = [max(pair[figure] for pair in ratios) for figure in (0, 1)]
    regrets = [float(str(row["regret"])) for row in figures.values()]
    byte_ratios = [float(str(row["bytes_ratio"])) for row in figures.values()]
    print(
        f"\n{title}{met} of {len(figures)} within {LIMIT} of the best fixed plan in mean and p95; "
        f"worst mean {worst[0]:.3f}, worst p95 {worst[1]:.3f}; regret: median {statistics.median(regrets):.3f}, "
        f"worst {max(regrets):.3f}; all bytes against the questions' own: median {statistics.median(byte_ratios):.3f}, "
        f"worst {max(byte_ratios):.3f} (bar: {MOST_BYTES})"
    )


def most_plans(figures: dict[str, dict[str, object]]) -> str:
    """Returns of each trace's scenarios the one whose oracle changes most."""
    most: dict[str, tuple[int, str]] = {}
    for name, row in figures.items():
        trace, scenario = name.rsplit("/", 1)
        most[trace] = max(most.get(trace, (0, "")), (int(str(row["oracle_plans_above_10_percent"])), scenario))
    return "; ".join(f"{trace} {count} ({scenario})" for trace, (count, scenario) in most.items())


def line(comparison: Comparison) -> dict[str, object]:
    adaptive, oracle = comparison.of("adaptive"), comparison.of("oracle")
    by_mean, by_p95 = comparison.best_fixed
    jpeg = comparison.of("adaptive-jpeg")
    nohedge = comparison.of("adaptive-nohedge")
    plans = oracle_plans(next(run for run in comparison.runs if run.contender == "oracle"), 0.1)
    row: dict[str, object] = {
        "adaptive_mean_s": adaptive.mean_s,
        "adaptive_p95_s": adaptive.p95_s,
        "best_fixed_plan": by_mean.contender,
        "best_fixed_mean_s": by_mean.mean_s,
        "best_fixed_p95_plan": by_p95.contender,
        "best_fixed_p95_s": by_p95.p95_s,
        "adaptive_jpeg_mean_s": jpeg.mean_s,
        "adaptive_jpeg_p95_s": jpeg.p95_s,
        "oracle_mean_s": oracle.mean_s,
        "regret": adaptive.regret,
        "mean_ratio": adaptive.mean_s / by_mean.mean_s,
        "p95_ratio": adaptive.p95_s / by_p95.p95_s,
        "oracle_plans_above_10_percent": plans,
        "bytes": adaptive.bytes_mean,
        "probe_bytes": adaptive.probe_bytes_mean,
        "best_fixed_bytes": by_mean.bytes_mean,
        "bytes_ratio": adaptive.bytes_mean / max(1.0, adaptive.bytes_mean - adaptive.probe_bytes_mean),
        "bytes_without_hedge": nohedge.bytes_mean,
        "energy_j": adaptive.energy_mean_j,
        "energy_without_hedge_j": nohedge.energy_mean_j,
        "mean_without_hedge_s": nohedge.mean_s,
    }
    print(
        f"{Path(comparison.trace).name:26s} mean {adaptive.mean_s:.3f} s = {row['mean_ratio']:.3f} x {by_mean.contender}; "
        f"p95 {adaptive.p95_s:.3f} s = {row['p95_ratio']:.3f} x {by_p95.contender}; "
        f"regret {100 * (adaptive.regret or 0):.1f} %; "
        f"{adaptive.bytes_mean:.0f} bytes a question with {adaptive.probe_bytes_mean:.0f} of probes, "
        f"fixed {by_mean.bytes_mean:.0f}; "
        f"oracle uses {plans} plans; hedging: {adaptive.bytes_mean - nohedge.bytes_mean:+.0f} bytes, "
        f"{adaptive.energy_mean_j - nohedge.energy_mean_j:+.2f} J",
        flush=True,
    )
    return row


def fleet() -> dict[str, object]:
    seconds = {}
    scenario = settings.load(FLEET, Scenario)
    for count in (250_000, 500_000, 1_000_000):
        each = scenario.arrivals.model_copy(update={"requests": count // 1000, "period_s": 5.0})
        start = time.perf_counter()
        comparison = next(iter(compare(scenario.model_copy(update={"arrivals": each}))))
        seconds[str(count)] = round(time.perf_counter() - start, 1)
        print(f"{comparison.summaries[0].requests:,} requests of 1,000 devices: {seconds[str(count)]} s", flush=True)
    return {"fleet_seconds": seconds}


if __name__ == "__main__":
    main()
