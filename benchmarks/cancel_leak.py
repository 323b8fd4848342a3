"""Memory after thousands of cancelled answers and reconnects: that of edge and cloud nodes must stay where it was.

    python benchmarks/cancel_leak.py [--cancels N] [--reconnects N] [--applications N]

Real processes: the laboratory of tests/e2e/laboratory.py with a tiny model of random weights, whose work is small beside
gRPC's. Applications ask under plans of each cut, and by the device's own choice, and go away at a random moment: before the
first token, in the middle of the answer, or after its end. A reconnect resets all connections of the device to both cloud
nodes; the next answer has to come over new ones, or from the device. The first twentieth of the cancels and the first half of
the reconnects settle the memory.
Formula. growth: for each process, resident memory at the end over that when it had settled, each the median of ten readings
over five seconds without a question; the largest of them. kib_a_cancel, kib_a_reconnect: what either added by itself after it
had settled, over its number. The last line is JSON with `growth`, and `curve`: what was done, how often so far, MiB by process.
Unfairness: a leak below the allocator's noise, some bytes a cancel, is not seen here. Questions that the edge node refuses
because cancelled ones have not ended yet (`failed: capacity`) cost it nothing: with many of them, less was cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the laboratory of the tests

from splitvlm.errors import SplitvlmError  # noqa: E402
from tests.e2e.laboratory import Ask, Laboratory, questions  # noqa: E402
from tests.tiny_models import save  # noqa: E402

CUTS = ("image", "vision:1", "tokens", "lm:1")
PLANS = (*(f"{cut}/lossless" for cut in CUTS), "")
MAX_NEW_TOKENS = 12
MOMENTS = ("before the first token", "in the middle", "after the end")
SETTLED = {"cancel": 1 / 20, "reconnect": 1 / 2}  # of their number
STEPS = 10  # points of each curve after it has settled
READINGS, READ_EVERY_S = 10, 0.5
MOST_GROWTH = 1.03


class Experiment:
    """One laboratory, what is asked there, and what its processes hold."""

    def __init__(self, laboratory: Laboratory, applications: int, progress: Progress) -> None:
        self.laboratory = laboratory
        self.happened: Counter[str] = Counter()
        self.curve: list[dict[str, Any]] = []
        self._applications = applications
        self._progress = progress
        self._asked = questions()
        self._draw = random.Random(1)
        clouds = {f"cloud-{number + 1}": node for number, node in enumerate(laboratory.clouds.values())}
        nodes = {"edge": laboratory.edge, **clouds}
        self._processes = {name: psutil.Process(node.process.pid) for name, node in nodes.items()}

    async def cancels(self, count: int) -> None:
        """Asks `count` questions, as many at once as there are applications, and goes away from each."""
        left = iter(range(count))
        task = self._progress.add_task("cancels", total=count)

        async def application() -> None:
            for _ in left:
                await self._cancel(self._draw.choice(self._asked), self._draw.choice(PLANS), self._draw.choice(MOMENTS))
                self._progress.advance(task)

        await asyncio.gather(*(application() for _ in range(self._applications)))

    async def _cancel(self, asked: Ask, plan: str, moment: str) -> None:
        """Ends the call to the edge node before its first token, after some of them, or after the last one."""
        self.happened[moment] += 1
        pieces = self._draw.randrange(1, MAX_NEW_TOKENS)
        wait_s = self._draw.uniform(0.0, 0.03) if moment == MOMENTS[0] else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                async with contextlib.aclosing(self._answer(asked, plan)) as answer:
                    async for message in answer:
                        pieces -= message.WhichOneof("body") == "text"
                        if moment == MOMENTS[1] and pieces <= 0:
                            break

    async def reconnects(self, count: int) -> None:
        """Resets the device's connections `count` times; each time the next answer has to come."""
        for _ in self._progress.track(range(count), description="reconnects"):
            for link in self.laboratory.links.values():
                link.cut(drop=True)
                link.restore()
            async for message in self._answer(self._draw.choice(self._asked), self._draw.choice(PLANS)):
                if message.HasField("report"):
                    self.happened[f"answered by {message.report.answered_by}"] += 1

    async def _answer(self, asked: Ask, plan: str) -> Any:
        try:
            async for message in self.laboratory.client.ask(
                asked.conversation, asked.images, plan=plan, max_new_tokens=MAX_NEW_TOKENS
            ):
                yield message
        except SplitvlmError as error:
            self.happened[f"failed: {error.code}"] += 1

    async def note(self, kind: str, done: int) -> dict[str, float]:
        """Reads the memory of all processes at rest, in MiB, as a point of the curve."""
        readings: dict[str, list[float]] = {name: [] for name in self._processes}
        for _ in range(READINGS):
            await asyncio.sleep(READ_EVERY_S)
            for name, process in self._processes.items():
                readings[name].append(process.memory_info().rss / 2**20)
        mib = {name: round(statistics.median(values), 2) for name, values in readings.items()}
        self.curve.append({"kind": kind, "done": done, "mib": mib})
        self._progress.console.print(kind, done, mib)
        return mib


async def run(cancels: int, reconnects: int, applications: int, folder: Path) -> dict[str, Any]:
    """Returns the figures; prints each point of the curve on standard error."""
    counts = {"cancel": cancels, "reconnect": reconnects}
    first = {kind: max(1, int(share * counts[kind])) for kind, share in SETTLED.items()}
    model = str(save("scenes-like", folder / "model"))
    limits = {"working_bytes": 256 << 20}
    with Progress(console=Console(stderr=True)) as progress:
        async with Laboratory(folder, model=model, cuts=CUTS, slowdown=1.0, limits=limits) as laboratory:
            experiment = Experiment(laboratory, applications, progress)
            work = {"cancel": experiment.cancels, "reconnect": experiment.reconnects}
            await experiment.note("start", 0)
            for kind in counts:
                await work[kind](first[kind])
            before = settled = await experiment.note("settled", 0)
            added = {}
            for kind, count in counts.items():
                done = first[kind]
                for step in range(STEPS):
                    upto = first[kind] + (count - first[kind]) * (step + 1) // STEPS
                    await work[kind](upto - done)
                    done = upto
                    now = await experiment.note(kind, done)
                added[kind] = {
                    name: round(1024 * (now[name] - before[name]) / (count - first[kind]), 3) for name in now
                }
                before = now
            connections = sum(link.connections for link in laboratory.links.values())
    return {
        "benchmark": "cancel_leak",
        **{f"{kind}s": count for kind, count in counts.items()},
        "connections": connections,
        "happened": dict(experiment.happened),
        "growth": round(max(before[name] / settled[name] for name in settled), 4),
        **{f"kib_a_{kind}": figures for kind, figures in added.items()},
        "settled_mib": settled,
        "end_mib": before,
        "curve": experiment.curve,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cancels", type=int, default=10_000)
    parser.add_argument("--reconnects", type=int, default=1_000)
    parser.add_argument("--applications", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="splitvlm-cancels-") as folder:
        result = asyncio.run(run(options.cancels, options.reconnects, options.applications, Path(folder)))
    print(json.dumps(result))
    sys.exit(result["growth"] > MOST_GROWTH)


if __name__ == "__main__":
    main()
