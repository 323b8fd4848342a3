"""The engine `torch`: continuous batching over transformers' own modules, for every cut and family, exact.

One thread runs everything. Decoding features, towers and connectors are jobs of that thread, in which devices take turns.
Between two jobs all running answers move on by one token, in one forward pass (splitvlm/model/batch). Where its family allows,
a prompt is read chunk by chunk in these passes, the oldest first, so that running answers hardly wait for it; else it is a job.
Answers join and leave between passes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from cloud_node.engine.kv_budget import KvBudget, RowKind
from cloud_node.engine.lane import Lane
from cloud_node.engine.protocol import JobTimes, MemoryNeed, SequenceRequest
from cloud_node.engine.torch_sequence import TorchSequence
from splitvlm.domain import CutKind
from splitvlm.model.batch.arena import rows_held
from splitvlm.model.batch.decoder import BatchedDecoder, DecodingRow, capacity_of
from splitvlm.model.boundary import HIDDEN, IDS, Boundary, boundary_bytes
from splitvlm.model.parts import CloudPart
from splitvlm.model.tiles import reads_by_tile
from splitvlm.model.upper_run import UpperRun

T = TypeVar("T")

PASS_TOKENS = (
    48  # of running answers and of a prompt's chunk together: what a pass takes grows slowly up to here on a CPU
)
LEAST_CHUNK = 16

_log = logging.getLogger("splitvlm.cloud.engine")


class TorchEngine:
    """Implements `Engine` (protocol.py)."""

    def __init__(self, part: CloudPart, kv_budget_bytes: int, make_lane: Callable[[Callable[[], bool]], Lane]) -> None:
        """`make_lane` makes the engine's own thread from what is to run between two jobs."""
        self.part = part
        self.budget = KvBudget(kv_budget_bytes, self._row_bytes, rows_held)
        self._decoder = BatchedDecoder(part)
        self._running: list[TorchSequence] = []
        self._reading: deque[TorchSequence] = deque()  # whose prompts are read in chunks, the oldest first
        self._passes = 0
        self.lane = make_lane(self._pass)  # last: its thread calls _pass at once

    @property
    def prefills_by_tile(self) -> bool:
        """Tells whether prompts are read as their tiles arrive: true of causal families that connect tile by tile."""
        return reads_by_tile(self.part)

    @property
    def jobs(self) -> int:
        """Returns how many jobs and passes were begun."""
        return self.lane.jobs + self._passes

    @property
    def in_work(self) -> bool:
        """Tells whether a job runs or waits, or an answer is not at its end."""
        return self.lane.in_work or bool(self._running) or bool(self._reading)

    @property
    def num_running(self) -> int:
        """How many answers move on together now."""
        return len(self._running)

    def expected_queue_s(self, device: str) -> float:
        return self.lane.expected_queue_s(device)

    def memory_needed(self, request: SequenceRequest) -> MemoryNeed:
        """Counts the inputs, and the prompt's keys and values twice until they lie in their row; rows are this engine's."""
        spec, dtype = self.part.spec, str(self.part.model.dtype).removeprefix("torch.")
        read = spec.cache_bytes(self._kind(request).num_layers, dtype, 2 * _prompt_tokens(request.inputs))
        return MemoryNeed(boundary_bytes(dict(request.inputs)) + read, 0)

    def start(self, request: SequenceRequest) -> TorchSequence:
        kind = self._kind(request)
        self.budget.reserve(request.device, kind)
        return TorchSequence(self, request, kind)

    def use(self, kv_budget_bytes: int) -> None:
        self.budget.max_bytes = kv_budget_bytes

    async def in_turn(self, device: str, job: Callable[[], T]) -> tuple[T, JobTimes]:
        return await self.lane.run(device, job)

    async def measure(self, step: Callable[[], T]) -> T:
        return (await self.lane.run("", step))[0]

    def close(self) -> bool:
        return self.lane.close()

    def join(self, sequence: TorchSequence) -> None:
        """Lets a sequence whose prompt was read move on with the others. Called in the thread."""
        self._running.append(sequence)

    def read(self, sequence: TorchSequence) -> None:
        """Lets a prompt be read in the passes to come. Called in the thread."""
        self._reading.append(sequence)

    def _kind(self, request: SequenceRequest) -> RowKind:
        below = request.cut.layers if request.cut.kind is CutKind.LM else 0
        tokens = _prompt_tokens(request.inputs) + request.max_new_tokens
        return RowKind(self.part.spec.lm_layers - below, capacity_of(tokens))

    def _row_bytes(self, kind: RowKind) -> int:
        dtype = str(self.part.model.dtype).removeprefix("torch.")
        return self.part.spec.cache_bytes(kind.num_layers, dtype, kind.capacity)

    def _pass(self) -> bool:
        """Moves all answers on that can; returns True if there are more to move. Runs in the thread, and raises nothing."""
        for sequence in [sequence for sequence in self._running if sequence.cancelled.is_set()]:
            self._leave(sequence)
        while self._reading and self._reading[0].cancelled.is_set():
            self._reading.popleft().left(None)
        fed: dict[TorchSequence, Boundary | None] = {}
        for sequence in list(self._running):
            try:
                if sequence.is_ready:
                    fed[sequence] = sequence.next_step()
            except Exception as error:  # noqa: BLE001 (one sequence's input is its own fault)
                self._leave(sequence, error)
        if fed or self._reading:
            self._move_on(fed)
        return bool(self._reading) or any(sequence.is_ready for sequence in self._running)

    def _move_on(self, fed: Mapping[TorchSequence, Boundary | None]) -> None:
        began_s = time.perf_counter()
        self._passes += 1
        reader = self._reading[0] if self._reading else None
        try:
            chunk = reader.next_chunk(self._chunk_tokens(len(fed))) if reader else None
            logits_BV = self._decoder.step({sequence.row: step for sequence, step in fed.items()}, chunk)
            for sequence, logits_V in zip(fed, logits_BV, strict=False):
                sequence.choose(logits_V)
        except Exception as error:  # noqa: BLE001 (the thread goes on)
            _log.exception("a pass failed")
            for sequence in fed:
                self._leave(sequence, error)
            if reader:
                self._reading.popleft().left(error)
            return
        took_s = time.perf_counter() - began_s
        for sequence in fed:
            sequence.times.tokens_s += took_s
            if sequence.finished:
                self._leave(sequence)
        if reader:
            reader.times.prefill_s += took_s
            if reader.is_read:
                self._reading.popleft()
                reader.join_by(logits_BV[-1])

    def _chunk_tokens(self, num_running: int) -> int:
        """Returns how many tokens of a prompt are read beside so many running answers: all of them beside none."""
        return max(LEAST_CHUNK, PASS_TOKENS - num_running) if num_running else self.part.spec.max_context

    def _leave(self, sequence: TorchSequence, error: Exception | None = None) -> None:
        self._running.remove(sequence)
        self._decoder.remove(sequence.row)
        sequence.left(error)

    def row(self, run: UpperRun) -> DecodingRow:
        """Moves a run's caches into a row. Called in the thread."""
        return self._decoder.add(run)


def _prompt_tokens(inputs: Mapping[str, torch.Tensor]) -> int:
    """Counts the prompt's tokens in a boundary, or at the cut `image` in the processor's tensors."""
    if "input_ids" in inputs:
        return int(inputs["input_ids"].shape[1])
    return len(inputs[IDS] if IDS in inputs else inputs[HIDDEN])
