"""Memory of one cloud node with many open sessions: idle ones, whose prefixes it caches, and active ones, whose answers run.

All are devices of their own, over mutual TLS and sealed sessions, against a cloud node in a process of its own. Each idle
device asks one question about a picture of its own, whose prefix the node may cache, and keeps its session open. The active
ones then ask all at once and again. The node's budget of keys and values has room for some of their answers only: the others
are refused, wait as long as they were told, and ask again.

Keys and values are counted as the node counts them (its debug log says so at each change: rows as they are allocated, prefixes
by their storage); resident memory is the operating system's figure. A refusal *came true* where the node had room when the
device came back at the time that it was told.

Exit code 1: keys and values exceeded the budget, or a request was not answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_node.cloud.cloud_request import AnswerSpec, CloudRequest
from edge_node.cloud.exchange import Exchange
from edge_node.cloud.link import CloudLink
from edge_node.cloud.payload import Payload
from edge_node.cloud.segments import Segments
from edge_node.node import compatibility_of
from splitvlm.bundle import open_bundle
from splitvlm.crypto.identity import Role
from splitvlm.domain import GREEDY, Plan
from splitvlm.errors import CapacityError
from splitvlm.files.text import parse_json
from splitvlm.rpc.limits import PREFIX_NAME_BYTES
from splitvlm.tools.launcher import Launcher, Node
from splitvlm.tools.load.recording import RecordedRequest, record

MIB = 2**20
PLAN = Plan.parse("tokens/lossless")
OPENED_AT_ONCE = 8


@dataclass
class Refusals:
    """Counts the refusals of the active devices, and those after which the node had room at the time that it told."""

    told: int = 0
    came_true: int = 0


async def main() -> int:
    options = _options()
    bundle = open_bundle(options.model)
    recorded = record(options.model, PLAN, 4, bundle.codec, GREEDY, seed=0, threads=options.threads)
    budget_bytes = options.kv_budget_mib * MIB
    with tempfile.TemporaryDirectory() as folder:
        async with Launcher(Path(folder)) as launcher:
            cloud = await launcher.start("cloud", _settings(options, budget_bytes))
            process = psutil.Process(cloud.process.pid)
            loaded_bytes = process.memory_info().rss
            compatibility = compatibility_of(bundle.spec, bundle.codec, options.dtype)
            links = [
                CloudLink(cloud.address, compatibility, launcher.identity(f"device-{number}", Role.EDGE), ["tokens"])
                for number in range(options.idle + options.active)
            ]
            idle, active = links[: options.idle], links[options.idle :]
            try:
                await _fill_cache(idle, recorded)
                idle_bytes = process.memory_info().rss
                print(
                    f"{options.idle} devices asked about a picture of their own; their sessions are open.", flush=True
                )
                refusals, peak_bytes = await _answer(active, recorded, options, process)
                open_sessions = _open_sessions(cloud)
            finally:
                await asyncio.gather(*(link.close() for link in links))
            rows, prefixes, most = _most_kv_bytes(cloud)
    summary = {
        "model": options.model,
        "idle_sessions": options.idle,
        "active_sessions": options.active,
        "open_sessions": open_sessions,
        "kv_budget_bytes": budget_bytes,
        "kv_peak_bytes": most,
        "kv_peak_rows_bytes": rows,
        "kv_peak_prefixes_bytes": prefixes,
        "refused": refusals.told,
        "came_true": refusals.came_true,
        "rss_loaded_mib": round(loaded_bytes / MIB),
        "rss_idle_mib": round(idle_bytes / MIB),
        "rss_peak_mib": round(peak_bytes / MIB),
    }
    print(json.dumps(summary))
    return int(most > budget_bytes)


def _settings(options: argparse.Namespace, budget_bytes: int) -> dict[str, object]:
    return {
        "model": {"name": options.model, "dtype": options.dtype, "threads": options.threads},
        "cuts": ["tokens"],
        "limits": {
            "max_sessions": options.idle + options.active,
            "max_new_tokens": options.tokens,
            "max_queue_s": 600.0,
            "kv_budget_bytes": budget_bytes,
            "prefix_cache_bytes": 2 * budget_bytes,
            "prefix_cache_s": 3_600.0,
        },
        "logging": {"level": "debug", "json_lines": True},
    }


async def _fill_cache(links: Iterable[CloudLink], recorded: list[RecordedRequest]) -> None:
    """Asks one question over each link, about a picture whose prefix the node may cache; its session stays open."""
    left = iter(enumerate(links))

    async def some() -> None:
        for number, link in left:
            name = os.urandom(PREFIX_NAME_BYTES)
            await _ask_until_answered(link, recorded[number % len(recorded)], 1, Refusals(), name)

    await asyncio.gather(*(some() for _ in range(OPENED_AT_ONCE)))


async def _answer(
    links: list[CloudLink], recorded: list[RecordedRequest], options: argparse.Namespace, process: psutil.Process
) -> tuple[Refusals, int]:
    """Lets all devices ask at once, and again; returns how often they were refused, and the most resident memory."""
    refusals, peak_bytes = Refusals(), 0

    async def device(number: int, link: CloudLink) -> None:
        for answer in range(options.answers):
            await _ask_until_answered(link, recorded[(number + answer) % len(recorded)], options.tokens, refusals)

    asking = asyncio.gather(*(device(number, link) for number, link in enumerate(links)))
    while not asking.done():
        await asyncio.wait([asking], timeout=0.1)
        peak_bytes = max(peak_bytes, process.memory_info().rss)
    await asking
    return refusals, peak_bytes


async def _ask_until_answered(
    link: CloudLink, recorded: RecordedRequest, tokens: int, refusals: Refusals, prefix_name: bytes = b""
) -> None:
    was_refused = False
    while True:
        try:
            await _ask(link, recorded, tokens, prefix_name)
        except CapacityError as error:
            refusals.told += 1
            was_refused = True
            await asyncio.sleep(error.retry_after_s)
            continue
        refusals.came_true += was_refused
        return


async def _ask(link: CloudLink, recorded: RecordedRequest, tokens: int, prefix_name: bytes) -> None:
    payload = Payload(recorded.plan, Segments.of(recorded.data))
    request = CloudRequest(payload, AnswerSpec(tokens, recorded.vocabulary), prefix_name)
    async for _ in link.answer(request, Exchange()):
        pass


def _events(node: Node) -> Iterator[dict[str, object]]:
    for line in node.log.read_text("utf-8", "replace").splitlines():
        if line.startswith("{"):
            yield parse_json(line, str(node.log))


def _open_sessions(node: Node) -> int:
    events = [event["event"] for event in _events(node)]
    return events.count("session open") - events.count("session closed")


def _most_kv_bytes(node: Node) -> tuple[int, int, int]:
    """Returns the most bytes of rows, of prefixes, and of both at one time."""
    held = {"row_bytes": 0, "prefix_bytes": 0}
    seen = [(0, 0)]
    for event in _events(node):
        changed = {name: event[name] for name in held if name in event}
        if changed:
            held |= changed  # type: ignore[arg-type]
            seen.append((held["row_bytes"], held["prefix_bytes"]))
    return max(rows for rows, _ in seen), max(prefixes for _, prefixes in seen), max(map(sum, seen))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shape:smolvlm-256m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--idle", type=int, default=500, help="devices that asked once")
    parser.add_argument("--active", type=int, default=32, help="devices that ask all at once")
    parser.add_argument("--answers", type=int, default=2, help="of each active device")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, at the most")
    parser.add_argument("--kv-budget-mib", type=int, default=256, help="limits.kv_budget_bytes of the node, in MiB")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
