"""Mixed load with faults, for a while: memory and open descriptors of every process must not grow.

    python -m tests.e2e.soak --minutes 30 --plot out/soak.png

The laboratory (laboratory.py), with two applications that ask without a pause, under plans of every
kind, also about pictures whose prefix the cloud node has cached, and now and then go away in the middle of an answer. Every ten
seconds one fault of those that kill no process. Beside them the malicious clients of malice.py, a process with two valid
certificates, attack both cloud nodes and the orchestrator without a pause. The last line is JSON: for each process resident
memory and descriptors at the settled minute (a sixth of the whole) and at the end, each a mean over a tenth of the run, and
`growth`, the largest ratio; `failed` questions without an answer, `wrong` answers under lossless plans that are not those from
before the attack, `slowest_s` the longest wait for one; `attacks` how often each was made.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from splitvlm.crypto.authority import issue
from splitvlm.crypto.identity import Role
from splitvlm.tools.launcher import Node
from tests.e2e.chaos import PLANS
from tests.e2e.laboratory import Laboratory, questions

FAULTS = ("stop", "reset", "half_open", "slow", "no_cloud", "suspend_device")
OTHER_PLANS = ("tokens/klt3", "vision:3/klt2", "image/webp50", "device", "")
FAULT_EVERY_S, FAULT_LASTS_S, SAMPLE_EVERY_S = 10.0, 3.0, 1.0
PREFIX_CACHE_S = 60.0  # short of the settled minute: the prefix caches have filled their room by then
LIMITS = {"working_bytes": 256 << 20, "max_upload_s": 60.0}
GOES_AWAY = 0.1  # of the questions
SETTLED, WINDOW = 1 / 6, 1 / 10  # of the run
MOST_GROWTH = 1.05
Samples = dict[str, list[tuple[float, float, int]]]


async def soak(seconds: float, seed: int, folder: Path) -> tuple[Samples, dict[str, int]]:
    """(time in s, resident MiB, descriptors) by process, and what happened how often."""
    draw, happened = random.Random(seed), defaultdict[str, int](int)
    samples: Samples = defaultdict(list)
    async with Laboratory(folder, prefix_cache_s=PREFIX_CACHE_S, limits=LIMITS) as laboratory:
        processes = {
            "edge": laboratory.edge,
            "orchestrator": laboratory.orchestrator,
            **{f"cloud-{number + 1}": node for number, node in enumerate(laboratory.clouds.values())},
        }
        watched = {name: psutil.Process(node.process.pid) for name, node in processes.items()}
        asked = questions()
        right = {question: (await laboratory.ask(question, PLANS[0])).text for question in asked}
        malice = [await start_malice(laboratory, node) for node in laboratory.clouds.values()]
        began_s = time.monotonic()

        async def ask() -> None:
            while True:
                plan, question, asked_s = draw.choice((*PLANS, *OTHER_PLANS)), draw.choice(asked), time.monotonic()
                asking = asyncio.create_task(laboratory.ask(question, plan))
                if draw.random() < GOES_AWAY:
                    await asyncio.sleep(draw.uniform(0, 0.2))
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                    happened["gone away"] += 1
                else:
                    answer = await asking
                    happened["failed" if answer.error else "answered"] += 1
                    happened["wrong"] += plan in PLANS and not answer.error and answer.text != right[question]
                    happened["slowest_s"] = max(happened["slowest_s"], round(time.monotonic() - asked_s))
                    happened["prefix cached"] += answer.report.prefix_cached
                    happened["taken over"] += bool(answer.report.faults)

        async def break_things() -> None:
            while True:
                await asyncio.sleep(FAULT_EVERY_S)
                status = await laboratory.client.status()
                mend = await getattr(laboratory, draw.choice(FAULTS))(status.cloud_address)
                await asyncio.sleep(FAULT_LASTS_S)
                await mend()
                happened["faults"] += 1

        async def watch() -> None:
            while True:
                for name, process in watched.items():
                    now_s = time.monotonic() - began_s
                    samples[name].append((now_s, process.memory_info().rss / 2**20, process.num_fds()))
                await asyncio.sleep(SAMPLE_EVERY_S)

        tasks = [asyncio.create_task(work()) for work in (ask, ask, break_things, watch)]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        for process in malice:
            for name, count in (await stop_malice(process)).items():
                happened[f"attacks: {name}"] += count
    return samples, dict(happened)


async def start_malice(laboratory: Laboratory, cloud: Node) -> asyncio.subprocess.Process:
    """Attacks past the link emulator, which would slow it down."""
    name = f"mallory-{cloud.facts['node']}"
    keys = issue(laboratory.launcher.keys, name, Role.EDGE)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.e2e.malice", "--keys", str(keys), "--cloud", cloud.address),
        *("--model", cloud.facts["model"], "--orchestrator", laboratory.orchestrator.address),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).strip() == b"ready"
    return process


async def stop_malice(process: asyncio.subprocess.Process) -> dict[str, int]:
    """How often each attack was made."""
    process.terminate()
    said, _ = await process.communicate()
    made: dict[str, int] = json.loads(said.splitlines()[-1])["attacks"]
    return made


def summary(samples: Samples, happened: dict[str, int], seconds: float) -> dict[str, Any]:
    rows, growth = {}, 0.0
    for name, points in samples.items():
        times, mib, descriptors = (np.array(column, float) for column in zip(*points, strict=True))
        row = {}
        for what, values in (("mib", mib), ("descriptors", descriptors)):
            early = values[(times >= SETTLED * seconds) & (times < (SETTLED + WINDOW) * seconds)].mean()
            late = values[times >= (1 - WINDOW) * seconds].mean()
            row |= {f"settled_{what}": round(float(early), 1), f"end_{what}": round(float(late), 1)}
            growth = max(growth, float(late / early))
        rows[name] = row
    return {"benchmark": "soak", "minutes": seconds / 60, **happened, "growth": round(growth, 3), "processes": rows}


def plot(samples: Samples, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 5), sharex=True)
    for name, points in samples.items():
        times, mib, descriptors = zip(*points, strict=True)
        minutes = [at_s / 60 for at_s in times]
        above.plot(minutes, mib, label=name)
        below.plot(minutes, descriptors, label=name)
    above.set(ylabel="resident, MiB", ylim=(0, None), title="Mixed load with faults")
    below.set(ylabel="open descriptors", xlabel="minutes", ylim=(0, None))
    above.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, default=Path("out/soak.png"))
    options = parser.parse_args()
    seconds = 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="splitvlm-soak-") as folder:
        samples, happened = asyncio.run(soak(seconds, options.seed, Path(folder)))
    plot(samples, options.plot)
    result = summary(samples, happened, seconds)
    print(json.dumps(result))
    sys.exit(result["growth"] > MOST_GROWTH or result.get("wrong", 0) > 0 or result.get("failed", 0) > 0)


if __name__ == "__main__":
    main()
