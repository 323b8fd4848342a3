"""Contiguous stages of a model over several workers, for a model that none of them can hold: dynamic programming.

Minimises the latency of one request: every layer's prefill and steps on the worker that has it, and a hop for each change
of worker, once for the prefill and once for each step. "One worker" is a legal answer and wins where it fits. The
recurrence is that of PipeDream (SOSP 2019) for latency instead of throughput, with workers in a given order and any
subset of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from splitvlm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Layer:
    """Seconds on a worker of speed 1, and what it needs."""

    prefill_s: float
    step_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Worker:
    name: str
    memory_bytes: int
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class Hop:
    """From one worker to the next: seconds of a prefill's boundary, and of one token's."""

    prefill_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers `first` up to, not including, `end` on a worker."""

    worker: Worker
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Staging:
    stages: tuple[Stage, ...]
    latency_s: float


def best_stages(layers: Sequence[Layer], workers: Sequence[Worker], hop: Hop, n_tokens: int) -> Staging:
    """The staging of least latency, of equals the one of fewest stages. Raises ConfigError where the memory is too small.

    Takes len(layers)² x len(workers)² steps.
    """
    hop_s = hop.prefill_s + n_tokens * hop.step_s
    costs = [[_seconds(layer, worker, n_tokens) for layer in layers] for worker in workers]
    best: dict[tuple[int, int], Staging] = {}  # (layers done, last worker)
    for last, worker in enumerate(workers):
        for end in range(1, len(layers) + 1):
            found = None
            spent_s, held_bytes = 0.0, 0
            for first in range(end - 1, -1, -1):
                spent_s += costs[last][first]
                held_bytes += layers[first].memory_bytes
                if held_bytes > worker.memory_bytes:
                    break
                found = _better(found, _joined(best, first, last, end, worker, spent_s, hop_s))
            if found is not None:
                best[end, last] = found
    whole = None
    for last in range(len(workers)):
        whole = _better(whole, best.get((len(layers), last)))
    if whole is None:
        needed, there = (sum(one.memory_bytes for one in many) for many in (layers, workers))
        raise ConfigError(
            f"The model needs {needed} bytes in contiguous stages, and the workers, in their order, cannot hold it.",
            advice=f"Together they have {there} bytes; the largest layer needs {max(x.memory_bytes for x in layers)}.",
        )
    return whole


def _joined(
    best: dict[tuple[int, int], Staging], first: int, last: int, end: int, worker: Worker, spent_s: float, hop_s: float
) -> Staging | None:
    """The best staging whose last stage is `first` to `end` on `worker`."""
    stage = Stage(worker, first, end)
    if first == 0:
        return Staging((stage,), spent_s)
    before = None
    for earlier in range(last):
        before = _better(before, best.get((first, earlier)))
    if before is None:
        return None
    return Staging((*before.stages, stage), before.latency_s + hop_s + spent_s)


def _better(one: Staging | None, other: Staging | None) -> Staging | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda staging: (staging.latency_s, len(staging.stages)))


def _seconds(layer: Layer, worker: Worker, n_tokens: int) -> float:
    return (layer.prefill_s + n_tokens * layer.step_s) / worker.speed


def alone(layers: Sequence[Layer], workers: Sequence[Worker], n_tokens: int) -> dict[str, float]:
    """Seconds of each worker by itself; infinite where it cannot hold the model. What "use one node" is held against."""
    needed = sum(layer.memory_bytes for layer in layers)
    return {
        worker.name: sum(_seconds(layer, worker, n_tokens) for layer in layers)
        if needed <= worker.memory_bytes
        else math.inf
        for worker in workers
    }
