"""The engine that runs one step of one sequence at a time, in one thread: a prefill, a token, the decoding of features.

Sequences go on only as they are read: a session that does not send a token computes no further one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Literal, TypeVar, cast

import torch

from cloud_node.engine.lane import Lane
from cloud_node.engine.protocol import CachedPrefix, JobTimes, MemoryNeed, SequenceRequest, SequenceTimes
from splitvlm.domain import IMAGE, CutKind
from splitvlm.model.boundary import HIDDEN, IDS, boundary_bytes
from splitvlm.model.parts import CloudPart, UpperRun
from splitvlm.model.prefix import Prefix
from splitvlm.model.tiles import TiledRun, in_tiles, reads_by_tile

T = TypeVar("T")


class SequentialEngine:
    """Implements `Engine` (protocol.py) over transformers' own modules, for every cut and family."""

    def __init__(self, part: CloudPart, lane: Lane) -> None:
        """`lane` is the engine's own: nothing else runs in it."""
        self._part = part
        self._lane = lane

    @property
    def prefills_by_tile(self) -> bool:
        """Whether the family's tower and language model read tiles one by one."""
        return reads_by_tile(self._part)

    @property
    def jobs(self) -> int:
        """How many steps were begun."""
        return self._lane.jobs

    @property
    def in_work(self) -> bool:
        """Whether a step runs or waits."""
        return self._lane.in_work

    def expected_queue_s(self, device: str) -> float:
        """Returns how long a further step of this device would wait."""
        return self._lane.expected_queue_s(device)

    def memory_needed(self, request: SequenceRequest) -> MemoryNeed:
        """Keys and values count the prompt twice: a copy of them is kept for another question about the picture."""
        spec = self._part.spec
        layers = spec.lm_layers - (request.cut.layers if request.cut.kind is CutKind.LM else 0)
        num_tokens = 2 * _prompt_tokens(request.inputs) + request.max_new_tokens
        dtype = str(self._part.model.dtype).removeprefix("torch.")
        return MemoryNeed(boundary_bytes(dict(request.inputs)), spec.cache_bytes(layers, dtype, num_tokens))

    def start(self, request: SequenceRequest) -> SequentialSequence:
        """Returns a sequence. Only one in tiles begins at once: others when they are awaited."""
        return SequentialSequence(self._part, self._lane, request)

    async def in_turn(self, device: str, job: Callable[[], T]) -> tuple[T, JobTimes]:
        """Runs the job as one step of this device."""
        return await self._lane.run(device, job)

    async def measure(self, step: Callable[[], T]) -> T:
        """Runs the step as a device of its own."""
        return (await self._lane.run("", step))[0]

    def close(self) -> bool:
        """Ends the thread; returns whether it has ended in time."""
        return self._lane.close()


class SequentialSequence:
    """Implements `Sequence` (protocol.py): each of its steps waits for its device's turn."""

    def __init__(self, part: CloudPart, lane: Lane, request: SequenceRequest) -> None:
        self._part = part
        self._lane = lane
        self._request = request
        self._run: UpperRun | None = None
        self._steps: asyncio.Queue[Callable[[], Mapping[str, torch.Tensor]]] = asyncio.Queue()
        self._first_token: int | None = None  # chosen by the prefill, and not read yet
        self._num_tokens = 0  # chosen so far, resumed ones included
        self._begun = asyncio.create_task(self._begin_tiles(request)) if request.num_tiles > 1 else None
        self.times = SequenceTimes()

    @property
    def finished(self) -> bool:
        """Whether its last token was chosen."""
        return self._run is not None and self._run.finished

    async def read_tile(self, tile: Mapping[str, torch.Tensor]) -> None:
        """Reads the tile in one step, after those before it."""
        assert self._begun is not None, "the request has one tile"
        run = await self._begun
        await self._turn("prefill_s", lambda: run.add(dict(tile)))

    async def prefill(self) -> CachedPrefix | None:
        """Reads the prompt, or what tiles left of it, in one step."""
        begun = await self._begun if self._begun is not None else None
        self._run, token_id, prefix = await self._turn("prefill_s", lambda: self._prefilled(begun))
        self._num_tokens = 1
        self._first_token = None if self._request.resume_token_ids else token_id
        return prefix

    def feed(self, step: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Keeps the step until its token's turn."""
        self._steps.put_nowait(step)

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        run, first_token = self._run, self._first_token
        assert run is not None, "prefill() comes first"
        if first_token is not None:
            self._first_token = None
            return first_token
        while not run.finished:
            token_id = await self._next_token(run)
            if self._num_tokens > len(self._request.resume_token_ids):
                return token_id
        raise StopAsyncIteration

    def cancel(self) -> None:
        """Drops the caches, and a first tile that waits."""
        if self._begun is not None:
            self._begun.add_done_callback(_observed)
            self._begun.cancel()
        self._run = self._begun = None

    async def _begin_tiles(self, request: SequenceRequest) -> TiledRun:
        return await self._turn("prefill_s", lambda: _tiled_run(self._part, request))

    async def _next_token(self, run: UpperRun) -> int:
        step = await self._steps.get() if self._request.cut.kind is CutKind.LM else None
        resumed = self._resumed(self._num_tokens)
        token_id = await self._turn("tokens_s", lambda: run.next(dict(step()) if step else None, resumed))
        self._num_tokens += 1
        return token_id

    async def _turn(self, counted: Literal["prefill_s", "tokens_s"], work: Callable[[], T]) -> T:
        result, job = await self._lane.run(self._request.device, work)
        self.times.queue_s += job.queue_s
        setattr(self.times, counted, getattr(self.times, counted) + job.busy_s)
        return result

    def _prefilled(self, begun: UpperRun | None) -> tuple[UpperRun, int, Prefix | None]:
        """Returns the run, its first token and what another question can go on from. Runs in the lane."""
        run = begun or _run(self._part, self._request)
        token_id = run.first(self._resumed(0))
        return run, token_id, run.prefix() if self._request.keep_prefix else None

    def _resumed(self, index: int) -> int | None:
        """Returns the answer's token at this index where another node chose it."""
        known = self._request.resume_token_ids
        return known[index] if index < len(known) else None


def _run(part: CloudPart, request: SequenceRequest) -> UpperRun:
    """Checks the inputs' values, and makes what runs them. Raises ProtocolError, PrefixEvicted."""
    inputs, limit = dict(request.inputs), request.max_new_tokens
    if request.prefix is not None:
        return part.prefix_cached(cast(Prefix, request.prefix), inputs, limit)
    if request.cut == IMAGE:
        return part.upper_from_inputs(inputs, limit)
    return part.upper(request.cut, inputs, limit)


def _tiled_run(part: CloudPart, request: SequenceRequest) -> TiledRun:
    """Returns a run that has read the first tile. Raises ProtocolError."""
    run = in_tiles(part, request.cut, dict(request.inputs), request.max_new_tokens)
    assert run is not None, "only engines that prefill by tile are given tiles"
    run.begin()
    return run


def _prompt_tokens(inputs: Mapping[str, torch.Tensor]) -> int:
    """Counts the prompt's tokens in a boundary, or at the cut `image` in the processor's tensors."""
    if "input_ids" in inputs:
        return int(inputs["input_ids"].shape[1])
    return len(inputs[IDS] if IDS in inputs else inputs[HIDDEN])


def _observed(task: asyncio.Task[TiledRun]) -> None:
    """Reads the error of a task that nobody awaits any more."""
    if not task.cancelled():
        task.exception()
