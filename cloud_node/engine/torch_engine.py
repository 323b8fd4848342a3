"""The engine `torch`: continuous batching over transformers' own modules, for every cut and family, exact.

One thread runs everything. Decoding features, towers and connectors are jobs of that thread, in which devices take turns.
Between two jobs all running answers move on by one token, in one forward pass (splitvlm/model/batch). Where its family allows,
a prompt is read chunk by chunk in these passes, devices in turn, so that running answers hardly wait for it; else it is a job.
Answers join and leave between passes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from cloud_node.engine.handover import Handover
from cloud_node.engine.kv_admission import KvAdmission
from cloud_node.engine.kv_budget import KvBudget
from cloud_node.engine.kv_rows import RowKind
from cloud_node.engine.lane import BUSY_WINDOW_S, Lane
from cloud_node.engine.protocol import JobTimes, MemoryNeed, SequenceRequest
from cloud_node.engine.recent import RecentMean
from cloud_node.engine.scheduler import Scheduler
from cloud_node.engine.torch_sequence import TorchSequence
from splitvlm.domain import CutKind
from splitvlm.model.batch.arena import rows_held
from splitvlm.model.batch.decoder import BatchedDecoder, DecodingRow, capacity_of
from splitvlm.model.boundary import HIDDEN, IDS, Boundary, boundary_bytes
from splitvlm.model.parts import CloudPart
from splitvlm.model.tiles import reads_by_tile
from splitvlm.model.upper_run import UpperRun

T = TypeVar("T")

_log = logging.getLogger("splitvlm.cloud.engine")


class TorchEngine:
    """Implements `Engine` (protocol.py)."""

    def __init__(
        self,
        part: CloudPart,
        kv_budget_bytes: int,
        make_lane: Callable[[Callable[[], bool]], Lane],
        leave: Callable[[int], None] = lambda _num_bytes: None,
    ) -> None:
        """Takes `make_lane`, which makes the engine's own thread from what is to run between two jobs.

        `leave` is told how many bytes of the budget cached prefixes may take, whenever that changes.
        """
        self.part = part
        budget = KvBudget(kv_budget_bytes, self._row_bytes, rows_held)
        self.admission = KvAdmission(budget, leave, self.expected_queue_s)
        self._decoder = BatchedDecoder(part)
        self._scheduler: Scheduler[TorchSequence] = Scheduler(part.spec.max_context)  # changed in the thread alone
        self._given_up: deque[TorchSequence] = deque()  # appended in the event loop
        self._prompt_s = RecentMean(BUSY_WINDOW_S)  # that reading a prompt took
        self._passes = 0
        self.handover = Handover()  # of the thread's results
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
        return self.lane.in_work or bool(self._scheduler.num_running or self._scheduler.num_unread)

    @property
    def num_running(self) -> int:
        """Returns how many answers move on together now."""
        return self._scheduler.num_running

    def expected_queue_s(self, device: str) -> float:
        """Counts the jobs that run before the device's next one, and all prompts that are not read yet."""
        return self.lane.expected_queue_s(device) + self._scheduler.num_unread * self._prompt_s.at(time.monotonic())

    def memory_needed(self, request: SequenceRequest) -> MemoryNeed:
        """Counts the inputs, and the prompt's keys and values twice until they lie in their row; rows are this engine's."""
        spec, dtype = self.part.spec, str(self.part.model.dtype).removeprefix("torch.")
        read = spec.cache_bytes(self._kind(request).num_layers, dtype, 2 * _prompt_tokens(request.inputs))
        return MemoryNeed(boundary_bytes(dict(request.inputs)) + read, 0)

    def start(self, request: SequenceRequest) -> TorchSequence:
        row = self.admission.admit(request.device, self._kind(request), request.max_new_tokens)
        return TorchSequence(self, request, row)

    def use(self, kv_budget_bytes: int) -> None:
        self.admission.use(kv_budget_bytes)

    async def in_turn(self, device: str, job: Callable[[], T]) -> tuple[T, JobTimes]:
        return await self.lane.run(device, job)

    async def measure(self, step: Callable[[], T]) -> T:
        return (await self.lane.run("", step))[0]

    def close(self) -> bool:
        return self.lane.close()

    def join(self, sequence: TorchSequence) -> None:
        """Lets a sequence whose prompt was read move on with the others. Called in the thread."""
        self._scheduler.join(sequence)

    def read(self, sequence: TorchSequence) -> None:
        """Lets a prompt be read in the passes to come. Called in the thread."""
        self._scheduler.add_prompt(sequence.device, sequence)

    def was_read(self, queue_s: float, prefill_s: float) -> None:
        """Notes how long a prompt waited and took. Called in the event loop."""
        self.lane.note_wait(queue_s)
        self._prompt_s.note(prefill_s, time.monotonic())

    def give_up(self, sequence: TorchSequence) -> None:
        """Lets a sequence leave, wherever it is. Called in the event loop."""
        self._given_up.append(sequence)
        self.lane.wake()

    def _kind(self, request: SequenceRequest) -> RowKind:
        below = request.cut.layers if request.cut.kind is CutKind.LM else 0
        tokens = _prompt_tokens(request.inputs) + request.max_new_tokens
        return RowKind(self.part.spec.lm_layers - below, capacity_of(tokens))

    def _row_bytes(self, kind: RowKind) -> int:
        dtype = str(self.part.model.dtype).removeprefix("torch.")
        return self.part.spec.cache_bytes(kind.num_layers, dtype, kind.capacity)

    def _pass(self) -> bool:
        """Moves all answers on that can; returns True if there are more to move. Runs in the thread, and raises nothing."""
        with self.handover.together():
            self._run_pass()
        return self._scheduler.has_work(_is_ready)

    def _run_pass(self) -> None:
        while self._given_up:
            self._leave(self._given_up.popleft())
        moving, reader, chunk_tokens = self._scheduler.next_pass(_is_ready)
        fed: dict[TorchSequence, Boundary | None] = {}
        for sequence in moving:
            try:
                fed[sequence] = sequence.next_step()
            except Exception as error:  # noqa: BLE001 (one sequence's input is its own fault)
                self._leave(sequence, error)
        if fed or reader:
            self._move_on(fed, reader, chunk_tokens)

    def _move_on(
        self, fed: Mapping[TorchSequence, Boundary | None], reader: TorchSequence | None, chunk_tokens: int
    ) -> None:
        """Runs one pass: the last tokens of the answers `fed`, and the next chunk of the prompt of `reader`."""
        began_s = time.perf_counter()
        self._passes += 1
        try:
            chunk = reader.next_chunk(chunk_tokens) if reader else None
            logits_BV = self._decoder.step({sequence.row: step for sequence, step in fed.items()}, chunk)
        except Exception as error:  # noqa: BLE001 (the thread goes on)
            _log.exception("a pass failed")
            for sequence in [*fed, *([reader] if reader else [])]:
                self._leave(sequence, error)
            return
        took_s = time.perf_counter() - began_s
        self.admission.note_pass(took_s)
        for sequence, logits_V in zip(fed, logits_BV, strict=False):
            sequence.times.tokens_s += took_s
            self._choose(sequence, logits_V)
        if reader:
            reader.times.prefill_s += took_s
            if reader.is_read:
                self._scheduler.remove(reader)
                reader.join_by(logits_BV[-1])

    def _choose(self, sequence: TorchSequence, logits_V: torch.Tensor) -> None:
        try:
            sequence.choose(logits_V)
        except Exception as error:  # noqa: BLE001 (one sequence's choice ends no other)
            _log.exception("a token could not be chosen")
            self._leave(sequence, error)
            return
        if sequence.finished:
            self._leave(sequence)

    def _leave(self, sequence: TorchSequence, error: Exception | None = None) -> None:
        if self._scheduler.is_running(sequence):
            self._decoder.remove(sequence.row)
        self._scheduler.remove(sequence)
        sequence.left(error)

    def row(self, run: UpperRun) -> DecodingRow:
        """Moves a run's caches into a row. Called in the thread."""
        return self._decoder.add(run)


def _is_ready(sequence: TorchSequence) -> bool:
    return sequence.is_ready


def _prompt_tokens(inputs: Mapping[str, torch.Tensor]) -> int:
    """Counts the prompt's tokens in a boundary, or at the cut `image` in the processor's tensors."""
    if "input_ids" in inputs:
        return int(inputs["input_ids"].shape[1])
    return len(inputs[IDS] if IDS in inputs else inputs[HIDDEN])
