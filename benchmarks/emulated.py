"""Simulation against real processes: `python benchmarks/emulated.py [--trace FILE ...]`, some four minutes a trace.

Runs examples/simulate-emulated.yaml as `splitvlm simulate --emulate` does, over the recorded traces (or those given), on the
embedded model. Device and link are emulated, processes and sockets are real. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from orchestrator.simulator.scenario import Scenario
from splitvlm import settings
from splitvlm.errors import SplitvlmError
from splitvlm.tools.emulated_runs import emulate

ROOT = Path(__file__).parents[1]
RECORDED = ROOT.parent / "shared" / "traces"
MADE = ["synthetic:walk", "constant:1mbit", "step:5mbit@30,200kbit@30"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", action="append")
    parser.add_argument("--requests", type=int, help="of each trace, instead of the scenario's")
    options = parser.parse_args()
    scenario = settings.load(ROOT / "examples" / "simulate-emulated.yaml", Scenario)
    if options.requests:
        arrivals = scenario.arrivals.model_copy(update={"requests": options.requests})
        scenario = scenario.model_copy(update={"arrivals": arrivals})
    traces = options.trace or sorted(map(str, RECORDED.glob("*.up")))
    if not traces:
        print(f"{RECORDED} is missing: made traces are used.")
    try:
        print(json.dumps({"traces": emulate(scenario, traces or MADE, Console())}))
    except SplitvlmError as error:
        sys.exit(f"emulated.py: {error}")


if __name__ == "__main__":
    main()
