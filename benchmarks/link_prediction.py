"""Predicted against real transfer times: `python benchmarks/link_prediction.py [--trace FILE ...] [--transfers N]`.

Transfers of mixed sizes and pauses over the true integral of each trace; before each one the time for its size is predicted
by the link estimator, by the last sample's rate and by the harmonic mean of five (both with the same samples and the same
round trip). Relative errors: median and 90th percentile; and how often the conservative end was kept. Simulated; the last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import deque
from pathlib import Path

from orchestrator.simulator.results import percentile
from splitvlm.link.estimator import LinkEstimator
from splitvlm.link.tracefiles import load
from splitvlm.link.traces import Trace

RECORDED = Path(__file__).parents[2] / "shared" / "traces"
MADE = ("constant:300kbit", "constant:2mbit", "constant:20mbit", "step:5mbit@60,500kbit@60", "step:1mbit@30,100kbit@30")
RTT_S = 0.05
FRAME_BYTES = 16 * 1024
PRIOR_BPS = 5e6
SIZES = (300, 500, 2_000, 4_000, 12_000, 40_000)


class Rates:
    """A predictor by rates alone: of the last sample, or the harmonic mean of five."""

    def __init__(self, count: int) -> None:
        self._rates: deque[float] = deque(maxlen=count)

    def add(self, bps: float) -> None:
        self._rates.append(bps)

    def transfer_s(self, n_bytes: int) -> float:
        rates = self._rates or [PRIOR_BPS]
        return RTT_S + 8 * n_bytes * sum(1 / rate for rate in rates) / len(rates)


def errors(trace: Trace, transfers: int, seed: int) -> dict[str, dict[str, float]]:
    rng = random.Random(seed)
    ours, last, harmonic = LinkEstimator(prior_uplink_bps=PRIOR_BPS), Rates(1), Rates(5)
    found: dict[str, list[float]] = {"estimator": [], "last sample": [], "harmonic mean of 5": []}
    kept, now_s, asked_s = 0, 0.0, 0.0

    def cross(n_bytes: int) -> float:
        """One transfer or probe, told to all three."""
        nonlocal now_s
        took_s = trace.time_to_deliver(now_s, n_bytes)
        span_s = took_s - trace.time_to_deliver(now_s, FRAME_BYTES) if n_bytes > FRAME_BYTES else None
        now_s += took_s + RTT_S
        first = min(FRAME_BYTES, n_bytes)
        ours.on_transfer(n_bytes, span_s, took_s + RTT_S, 0.0, now_s, first_frame_bytes=first)
        rate = 8 * (n_bytes - first) / span_s if span_s else 8 * n_bytes / max(took_s, 1e-4)
        for predictor in (last, harmonic):
            predictor.add(rate)
        return took_s + RTT_S

    ours.on_rtt(RTT_S, now_s)
    cross(4_096)
    for number in range(transfers):
        next_s = now_s + rng.choice((0.2, 1.0, 3.0, 6.0))
        while (wait_s := ours.probe_wait_s(now_s, asked_s)) < next_s - now_s:
            now_s += max(0.0, wait_s)
            ours.on_rtt(RTT_S, now_s)
            cross(ours.probe_bytes(now_s))
        now_s = max(now_s, next_s)
        asked_s = now_s
        size = rng.choice(SIZES)
        estimate = ours.estimate(now_s)
        guesses = (estimate.transfer_s(size), last.transfer_s(size), harmonic.transfer_s(size))
        slow_s = estimate.pessimistic().transfer_s(size)
        real_s = cross(size)
        if number < 5:
            continue
        kept += real_s <= slow_s
        for name, guess in zip(found, guesses, strict=True):
            found[name].append(abs(guess - real_s) / real_s)
    figures = {
        name: {"median": percentile(sorted(e), 0.5), "p90": percentile(sorted(e), 0.9)} for name, e in found.items()
    }
    figures["estimator"]["conservative_kept"] = kept / len(found["estimator"])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", action="append")
    parser.add_argument("--transfers", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recorded = sorted(map(str, RECORDED.glob("*.up")))
    if not recorded and not options.trace:
        print(f"{RECORDED} is missing: only made traces are shown.")
    result = {}
    for name in options.trace or [*recorded, *MADE]:
        figures = result[Path(name).name] = errors(load(name).up, options.transfers, options.seed)
        shown = "; ".join(f"{who} {row['median']:.3f} / {row['p90']:.3f}" for who, row in figures.items())
        kept = figures["estimator"]["conservative_kept"]
        print(f"{Path(name).name:26s} median / p90 error: {shown}; conservative end kept {100 * kept:.0f} %", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
