"""Simulation against real processes: `python benchmarks/emulated.py [--traces DIR] [--trace FILE ...]`, four minutes a trace.

Runs examples/simulate-emulated.yaml as `splitvlm simulate --emulate` does, over the recorded traces (or those given), on the
embedded model. Device and link are emulated, processes and sockets are real. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from recorded_traces import add_option, recorded_traces
from rich.console import Console

from orchestrator.simulator.scenario import Scenario
from splitvlm import settings
from splitvlm.errors import SplitvlmError
from splitvlm.tools.emulated_runs import emulate

ROOT = Path(__file__).parents[1]
MADE = ["synthetic:walk", "constant:1mbit", "step:5mbit@30,200kbit@30"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option(parser)
    parser.add_argument("--trace", action="append", help="instead of the recorded ones")
    parser.add_argument("--requests", type=int, help="of each trace, instead of the scenario's")
    options = parser.parse_args()
    scenario = settings.load(ROOT / "examples" / "simulate-emulated.yaml", Scenario)
    if options.requests:
        arrivals = scenario.arrivals.model_copy(update={"requests": options.requests})
        scenario = scenario.model_copy(update={"arrivals": arrivals})
    try:
        traces = options.trace or recorded_traces(options.traces) or MADE
        print(json.dumps({"traces": emulate(scenario, traces, Console())}))
    except SplitvlmError as error:
        sys.exit(f"emulated.py: {error}")


if __name__ == "__main__":
    main()
