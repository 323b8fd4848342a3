"""The fault laboratory: real processes, a question at a time, and something that breaks while it is answered.

    python -m tests.e2e.chaos --runs 200 --seed 1 [--pool ray]

An orchestrator, two cloud nodes and a device that could hold the whole embedded model; a link emulator before each cloud
node. Each run asks a question under a lossless plan, greedy or (a third of the runs) with drawn tokens under a seed, breaks
one thing at a random moment of its answer, and compares what came with the answer without faults. One line a run; the last
line is a JSON object:

    complete             answers that came to their end
    identical            answers with the tokens and the text of the run without faults
    duplicates           tokens beyond those
    sampled              runs whose tokens are drawn
    sampled_identical    those of them that are identical
    detection_p95_s      from a failed node's last sign of life until it was given up, by the device's clock
    prefill_p95_s        of the same questions without faults, in the cloud
    recovery_p95_s       the longest wait of the application for a piece of the answer after the fault, where a node failed

Faults: kill (SIGKILL) or stop (SIGSTOP) the cloud node in use; reset its connections and refuse new ones; let nothing pass
(half-open); slow the link down to 64 kbit/s; both cloud nodes out of reach; kill the orchestrator; suspend the device for a
second, which its clock sees as a jump. The second cloud node's log is on a full disk (/dev/full) all the time.

With `--pool ray` one cloud node has its workers on Ray (ray_laboratory.py), where workers and Ray nodes are killed, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from splitvlm.domain import GREEDY, Sampling
from tests.e2e.laboratory import QUESTIONS, Answer, Ask, Laboratory, questions

PLANS = ("image/lossless", "vision:3/lossless", "tokens/lossless", "lm:2/lossless")
SAMPLED_SHARE = 1 / 3
DRAWN = Sampling(temperature=2.0, seed=7)  # hot: the embedded model is sure of its answers, and few draws would differ


@dataclass
class Run:
    fault: str
    sampled: bool
    num_images: int
    complete: bool
    identical: bool
    duplicates: int
    detection_s: float | None
    recovery_s: float | None
    error: str = ""


async def chaos(runs: int, seed: int, broken: Laboratory, num_questions: int = QUESTIONS) -> dict[str, Any]:
    """Prints a line a run; returns the summary."""
    draw = random.Random(seed)
    asked = questions(num_questions)
    async with broken as laboratory:
        usual = await _without_faults(laboratory, asked)
        done, faults = [], laboratory.FAULTS
        for number in range(runs):
            place, plan, fault = draw.randrange(len(asked)), draw.choice(PLANS), faults[number % len(faults)]
            sampling = DRAWN if draw.random() < SAMPLED_SHARE else GREEDY
            undisturbed = usual[place, plan, sampling]
            after_s = draw.uniform(0, 1.1) * undisturbed.report.total_s
            run = await _one(laboratory, asked[place], plan, sampling, fault, after_s, undisturbed)
            done.append(run)
            print(f"{number + 1:4} {_line(run, plan)}", flush=True)
    prefills = [answer.report.prefill_s for answer in usual.values()]
    return {
        "benchmark": "chaos",
        "seed": seed,
        "runs": runs,
        "complete": sum(run.complete for run in done),
        "identical": sum(run.identical for run in done),
        "sampled": sum(run.sampled for run in done),
        "sampled_identical": sum(run.sampled and run.identical for run in done),
        "sampled_of_two_images": sum(run.sampled and run.num_images == 2 for run in done),
        "duplicates": sum(run.duplicates for run in done),
        "taken_over": sum(run.detection_s is not None for run in done),
        "detection_p95_s": _p95([run.detection_s for run in done]),
        "prefill_p95_s": _p95(prefills),
        "recovery_p95_s": _p95([run.recovery_s for run in done]),
    }


async def _without_faults(laboratory: Laboratory, asked: list[Ask]) -> dict[tuple[int, str, Sampling], Answer]:
    """Returns the answers by question's place, plan and sampling: under all plans alike, else the program ends."""
    usual = {
        (place, plan, sampling): await laboratory.ask(question, plan, sampling)
        for place, question in enumerate(asked)
        for sampling in (GREEDY, DRAWN)
        for plan in PLANS
    }
    for (place, _, sampling), answer in usual.items():
        if answer.error or answer.text != usual[place, PLANS[0], sampling].text:
            raise SystemExit(f"without a fault: {answer.error or 'two lossless plans, two answers'}")
    if all(usual[place, PLANS[0], DRAWN].text == usual[place, PLANS[0], GREEDY].text for place in range(len(asked))):
        raise SystemExit("without a fault: every drawn answer is the greedy one, so that nothing would be compared")
    return usual


async def _one(
    laboratory: Laboratory, asked: Ask, plan: str, sampling: Sampling, fault: str, after_s: float, usual: Answer
) -> Run:
    in_use = await laboratory.healed()
    asking = asyncio.create_task(laboratory.ask(asked, plan, sampling))
    await asyncio.sleep(after_s)
    broke_s = time.monotonic()
    mend = await getattr(laboratory, fault)(in_use)
    answer = await asking
    await mend()
    same = list(answer.report.token_ids) == list(usual.report.token_ids) and answer.text == usual.text
    after = [broke_s, *(at_s for at_s in answer.pieces_at_s if at_s > broke_s)]
    faults = list(answer.report.faults)
    return Run(
        fault,
        sampled=sampling.draws,
        num_images=len(asked.images),
        complete=not answer.error,
        identical=same,
        duplicates=max(0, len(answer.report.token_ids) - len(usual.report.token_ids)),
        detection_s=max(one.silent_s for one in faults) if faults else None,
        recovery_s=max((late - early for early, late in pairwise(after)), default=None) if faults else None,
        error=answer.error,
    )


def _line(run: Run, plan: str) -> str:
    ended = "identical" if run.identical else "DIFFERENT" if run.complete else f"NOT COMPLETE ({run.error})"
    choice = "drawn" if run.sampled else "greedy"
    times = f"detection {_s(run.detection_s)}, recovery {_s(run.recovery_s)}"
    return f"{run.fault:16} {plan:18} {choice:6} {ended}, {times}"


def _laboratory(pool: str) -> type[Laboratory]:
    if pool == "local":
        return Laboratory
    from tests.e2e.ray_laboratory import RayLaboratory

    return RayLaboratory


def _p95(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.percentile(known, 95)), 3) if known else None


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pool", choices=("local", "ray"), default="local", help="where the cloud's workers run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="splitvlm-chaos-") as folder:
        laboratory = _laboratory(options.pool)(Path(folder))
        result = asyncio.run(chaos(options.runs, options.seed, laboratory)) | {"pool": options.pool}
    print(json.dumps(result))
    sys.exit(result["identical"] < result["runs"])


if __name__ == "__main__":
    main()
