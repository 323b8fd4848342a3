"""Measures what plans cost in answers: accuracy at each codec level of a few cuts, by the nodes' own parts and bytes.

A plan's drop is the share of questions that it loses against the unsplit answers on the same questions (lossless, law 1).
The result goes into the model's bundle as `accuracy.json`; a cloud node reports it to the orchestrator, which lends a cut that
was not measured the figure of the nearest cut of its kind.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from splitvlm.bundle import Bundle
from splitvlm.domain import DEVICE, FULL, Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.evaluation.answers import Example, naming, normalised
from splitvlm.local_model import LocalModel
from splitvlm.model.prompt import Prompt
from splitvlm.node.process_pool import worker_pool
from splitvlm.node.progress import Progress
from splitvlm.planning.kinds import KindTally
from splitvlm.variants.folder import Variant

MAX_NEW_TOKENS = 64
CHUNK = 4  # questions
QUESTIONS_A_WORKER = 50  # fewer are answered sooner than another process has imported its libraries


@dataclass
class _Tally:
    right: int = 0
    payload_bytes: int = 0
    differing: int = 0  # answers that are not the lossless ones
    kinds: defaultdict[str, KindTally] = field(default_factory=lambda: defaultdict(KindTally))

    def add(self, other: _Tally) -> None:
        self.right += other.right
        self.payload_bytes += other.payload_bytes
        self.differing += other.differing
        for kind, tally in other.kinds.items():
            self.kinds[kind] += tally


@dataclass
class _ProcessState:
    """Holds what a worker process needs for all of its jobs."""

    model: LocalModel
    cuts: tuple[Cut, ...]
    levels: frozenset[str]  # empty: all
    variant: str  # whose plans are measured
    tallies: defaultdict[Plan, _Tally] = field(default_factory=lambda: defaultdict(_Tally))


_process_state: list[_ProcessState] = []  # of a worker process


def measure_plans(
    name: str,
    bundle: Bundle,
    cuts: Sequence[Cut],
    examples: Iterable[Example],
    progress: Progress,
    workers: int = 1,
    levels: Collection[str] = (),
    variant: Variant | None = None,
) -> dict[str, dict[str, Any]]:
    """Returns {plan: {"questions", "accuracy", "drop", "differing", "payload_bytes", "kinds"}}; bytes are means.

    "kinds" is {kind of question: {"questions", "lost", "gained"}}, against the lossless answers. Without `levels` every level
    is measured. With a `variant` its plans are, against the lossless answers of the undivided model. The questions are shared
    by at most `workers` processes of one torch thread each. Raises UsageError.
    """
    asked = list(examples)
    if not asked:
        raise UsageError("There are no questions to measure with.")
    chunks = [asked[start : start + CHUNK] for start in range(0, len(asked), CHUNK)]
    total: defaultdict[Plan, _Tally] = defaultdict(_Tally)
    done = 0
    workers = min(workers, math.ceil(len(asked) / QUESTIONS_A_WORKER))
    with worker_pool(workers, _begin, name, bundle, tuple(cuts), frozenset(levels), variant) as pool:
        for chunk, tallies in zip(chunks, pool.map(_measured, chunks), strict=True):
            for plan, tally in tallies.items():
                total[plan].add(tally)
            done += len(chunk)
            progress(done, len(asked))
    wanted = variant.name if variant else FULL
    return {str(plan): _figures(total, plan, len(asked)) for plan in total if plan.variant == wanted}


def _begin(name: str, bundle: Bundle, cuts: tuple[Cut, ...], levels: frozenset[str], variant: Variant | None) -> None:
    """Loads the parts once in a worker process."""
    model = LocalModel.load(name, cuts, bundle=bundle, variants=[variant] if variant else [])
    _process_state.append(_ProcessState(model, cuts, levels, variant.name if variant else FULL))


def _measured(examples: Sequence[Example]) -> dict[Plan, _Tally]:
    worker = _process_state[0]
    worker.tallies = defaultdict(_Tally)
    for example in examples:
        for cut in worker.cuts:
            with naming(example):
                _ask(worker, cut, example)
    return dict(worker.tallies)


def _figures(tallies: Mapping[Plan, _Tally], plan: Plan, count: int) -> dict[str, Any]:
    tally, exact = tallies[plan], tallies[_exact(plan.cut)]
    return {
        "questions": count,
        "accuracy": tally.right / count,
        "drop": max(0.0, (exact.right - tally.right) / count),
        "differing": tally.differing / count,
        "payload_bytes": round(tally.payload_bytes / count, 1),
        "kinds": {kind: asdict(tally.kinds[kind]) for kind in sorted(tally.kinds)},
    }


def _ask(worker: _ProcessState, cut: Cut, example: Example) -> None:
    lossless = ""
    for plan in _plans(worker, cut):
        answer = worker.model.answer(Prompt.about(example.image, example.question), plan, MAX_NEW_TOKENS)
        lossless = answer.text if plan.is_exact else lossless
        tally = worker.tallies[plan]
        was_right, is_right = (normalised(text) == normalised(example.answer) for text in (lossless, answer.text))
        tally.right += is_right
        tally.kinds[example.kind] += KindTally(1, int(was_right and not is_right), int(is_right and not was_right))
        tally.differing += answer.text != lossless
        tally.payload_bytes += answer.payload_bytes


def _plans(worker: _ProcessState, cut: Cut) -> list[Plan]:
    """Returns the plans of a cut, the exact one first."""
    levels = ["none"] if cut == DEVICE else worker.model.form(worker.variant).codec.levels(cut)
    plans = [Plan(cut, level, worker.variant) for level in levels]
    measured = [plan for plan in plans if not worker.levels or plan.level in worker.levels or plan.level == "lossless"]
    return [_exact(cut), *(plan for plan in measured if not plan.is_exact)]


def _exact(cut: Cut) -> Plan:
    return Plan(cut, "none" if cut == DEVICE else "lossless")
