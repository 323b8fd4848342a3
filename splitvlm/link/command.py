"""The process `splitvlm link`: one emulated link, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path

from splitvlm.errors import UsageError
from splitvlm.link import tracefiles
from splitvlm.link.emulator import QUEUE_BYTES, Delay, LinkEmulator, LinkShape
from splitvlm.link.traces import LinkTrace


async def run(
    listen: tuple[str, int],
    upstream: tuple[str, int],
    trace: str,
    *,
    delay_s: float | None = None,
    down: str | None = None,
    queue_bytes: int = QUEUE_BYTES,
    log_file: Path | None = None,
) -> None:
    """Prints a ready line, shapes until SIGTERM or SIGINT, then prints a JSON line of counters.

    The file's own downlink and round-trip times count unless `down` and `delay_s` (one way) say otherwise. `log_file`
    gets the deliveries as CSV `seconds,direction,bytes` in bins of 0.1 s.
    """
    link_trace = tracefiles.load(trace)
    down_trace = tracefiles.load(down).up if down is not None else link_trace.down
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    delay = _delay_of(link_trace) if delay_s is None else delay_s
    started_unix_s = time.time()
    async with LinkEmulator(
        listen, upstream, LinkShape(link_trace.up, down_trace, delay_s=delay, queue_bytes=queue_bytes)
    ) as link:
        where = f"listen={listen[0]}:{link.port} upstream={upstream[0]}:{upstream[1]}"
        print(f"link ready {where} trace={trace}", flush=True)
        await stop.wait()
        print(json.dumps({**link.counters(), "started_unix_s": round(started_unix_s, 3)}), flush=True)
        if log_file is not None:
            _write_log(log_file, link)


def _delay_of(link_trace: LinkTrace) -> Delay:
    return (lambda since_t0_s: (link_trace.rtt_s(since_t0_s) or 0.0) / 2) if link_trace.rtt_knots else 0.0


def _write_log(path: Path, link: LinkEmulator) -> None:
    rows = sorted((at_s, way.name, n) for way in (link.up, link.down) for at_s, n in way.deliveries())
    text = "seconds,direction,bytes\n" + "".join(f"{at_s:.1f},{name},{n}\n" for at_s, name, n in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write the log {path}: {error.strerror}.") from error
