"""Predicted against real transfer times: `python benchmarks/link_prediction.py [--traces DIR] [--trace FILE ...]`.

Transfers of mixed sizes and pauses over the true integral of each trace; before each one the time for its size is predicted
by the link estimator, by the last sample's rate and by the harmonic mean of five (both with the same samples and the same
round trip). Relative errors: median and 90th percentile; and how often the conservative end was kept. Simulated, unless
`--real SECONDS` sends them over a TCP connection through the link emulator, for so long a trace. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from recorded_traces import add_option, recorded_traces

from orchestrator.simulator.results import percentile
from splitvlm.errors import SplitvlmError
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.estimator import LinkEstimator
from splitvlm.link.tracefiles import load_living
from splitvlm.link.traces import Trace

MADE = ("constant:300kbit", "constant:2mbit", "constant:20mbit", "step:5mbit@60,500kbit@60", "step:1mbit@30,100kbit@30")
RTT_S = 0.05
FRAME_BYTES = 16 * 1024
PRIOR_BPS = 5e6
Figures = dict[str, dict[str, float]]
SIZES = (300, 500, 2_000, 4_000, 12_000, 40_000)


class Rates:
    """Predicts by rates alone: of the last sample, or the harmonic mean of five."""

    def __init__(self, count: int) -> None:
        self._rates: deque[float] = deque(maxlen=count)

    def add(self, bps: float) -> None:
        self._rates.append(bps)

    def transfer_s(self, n_bytes: int) -> float:
        rates = self._rates or [PRIOR_BPS]
        return RTT_S + 8 * n_bytes * sum(1 / rate for rate in rates) / len(rates)


@dataclass
class Transfer:
    """Holds one transfer as it was seen: by the sender's clock, and the receiver's span after the first frame (or None)."""

    elapsed_s: float
    span_s: float | None


class SimulatedLink:
    """Makes transfers over the trace's integral, on a clock of its own."""

    def __init__(self, trace: Trace) -> None:
        self.now_s = 0.0
        self._trace = trace

    async def wait_until(self, at_s: float) -> None:
        self.now_s = max(self.now_s, at_s)

    async def cross(self, n_bytes: int) -> Transfer:
        took_s = self._trace.time_to_deliver(self.now_s, n_bytes)
        span_s = took_s - self._trace.time_to_deliver(self.now_s, FRAME_BYTES) if n_bytes > FRAME_BYTES else None
        self.now_s += took_s + RTT_S
        return Transfer(took_s + RTT_S, span_s)


class RealLink:
    """Makes transfers over a TCP connection through the emulator: 4 bytes of length, the payload, and a receipt back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def now_s(self) -> float:
        return time.monotonic()

    async def wait_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - time.monotonic()))

    async def cross(self, n_bytes: int) -> Transfer:
        started_s = time.monotonic()
        self._writer.write(struct.pack("<I", n_bytes) + bytes(n_bytes))
        (span_s,) = struct.unpack("<d", await self._reader.readexactly(8))
        return Transfer(time.monotonic() - started_s, span_s if n_bytes > FRAME_BYTES else None)


async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves the other end: a receipt for each transfer, with the span from its first frame to its last byte."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            (n_bytes,) = struct.unpack("<I", await reader.readexactly(4))
            first = min(n_bytes, FRAME_BYTES)
            await reader.readexactly(first)
            at_s = time.monotonic()
            await reader.readexactly(n_bytes - first)
            writer.write(struct.pack("<d", time.monotonic() - at_s))
    writer.close()


async def really(trace: Trace, seconds: float, seed: int) -> Figures:
    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()[:2]
    async with server, LinkEmulator(("127.0.0.1", 0), upstream, LinkShape(trace, delay_s=RTT_S / 2)) as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        try:
            return await errors(RealLink(reader, writer), None, seconds, seed)
        finally:
            writer.close()


async def errors(link: SimulatedLink | RealLink, transfers: int | None, seconds: float | None, seed: int) -> Figures:
    rng = random.Random(seed)
    ours, last, harmonic = LinkEstimator(prior_uplink_bps=PRIOR_BPS), Rates(1), Rates(5)
    errors_by_name: dict[str, list[float]] = {"estimator": [], "last sample": [], "harmonic mean of 5": []}
    kept, number, began_s = 0, 0, link.now_s

    async def cross(n_bytes: int) -> float:
        """Makes one transfer, and tells it to all three."""
        seen = await link.cross(n_bytes)
        first = min(FRAME_BYTES, n_bytes)
        ours.on_transfer(n_bytes, seen.span_s, seen.elapsed_s, 0.0, link.now_s, first_frame_bytes=first)
        away_s = max(seen.elapsed_s - RTT_S, 1e-3)
        rate = 8 * (n_bytes - first) / seen.span_s if seen.span_s and seen.span_s > 1e-3 else 8 * n_bytes / away_s
        for predictor in (last, harmonic):
            predictor.add(rate)
        return seen.elapsed_s

    ours.on_rtt(RTT_S, link.now_s)
    await cross(4_096)
    while number < (transfers or 1_000_000) and link.now_s - began_s < (seconds or 1e9):
        next_s = link.now_s + rng.choice((0.2, 1.0, 3.0, 6.0) if transfers else (0.1, 0.5, 1.0, 3.0))
        await link.wait_until(next_s)
        ours.on_rtt(RTT_S, link.now_s)
        size = rng.choice(SIZES)
        estimate = ours.estimate(link.now_s)
        guesses = (estimate.transfer_s(size), last.transfer_s(size), harmonic.transfer_s(size))
        slow_s = estimate.pessimistic().transfer_s(size)
        real_s = await cross(size)
        number += 1
        if number <= 5:
            continue
        kept += real_s <= slow_s
        for name, guess in zip(errors_by_name, guesses, strict=True):
            errors_by_name[name].append(abs(guess - real_s) / real_s)
    figures = {
        name: {"median": percentile(sorted(e), 0.5), "p90": percentile(sorted(e), 0.9)}
        for name, e in errors_by_name.items()
    }
    figures["estimator"] |= {
        "conservative_kept": kept / len(errors_by_name["estimator"]),
        "transfers": len(errors_by_name["estimator"]),
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_option(parser)
    parser.add_argument("--trace", action="append", help="instead of the recorded and the synthetic ones")
    parser.add_argument("--transfers", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", type=float, metavar="SECONDS", help="over TCP through the emulator, so long a trace")
    options = parser.parse_args()
    try:
        print(json.dumps(predicted(options.trace or [*recorded_traces(options.traces), *MADE], options)))
    except SplitvlmError as error:
        sys.exit(f"link_prediction.py: {error}")


def predicted(names: list[str], options: argparse.Namespace) -> dict[str, Figures]:
    """Prints a line for each trace, and returns its figures by its name."""
    result = {}
    for name in names:
        trace = load_living(name).up
        if options.real:
            figures = asyncio.run(really(trace, options.real, options.seed))
        else:
            figures = asyncio.run(errors(SimulatedLink(trace), options.transfers, None, options.seed))
        result[Path(name).name] = figures
        shown = "; ".join(f"{who} {row['median']:.3f} / {row['p90']:.3f}" for who, row in figures.items())
        kept = figures["estimator"]["conservative_kept"]
        print(
            f"{Path(name).name:26s} median / p90 error: {shown}; conservative end kept {100 * kept:.0f} %", flush=True
        )
    return result


if __name__ == "__main__":
    main()
