"""One running answer of the engine `torch`: its prompt is read in jobs or passes, its tokens wait until they are read."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch

from cloud_node.engine.kv_admission import KvRow
from cloud_node.engine.protocol import CachedPrefix, SequenceRequest, SequenceTimes
from splitvlm.domain import IMAGE, CutKind
from splitvlm.errors import SplitvlmError
from splitvlm.model.batch.decoder import DecodingRow
from splitvlm.model.boundary import Boundary
from splitvlm.model.language import PromptChunk
from splitvlm.model.parts import CloudPart
from splitvlm.model.prefix import Prefix
from splitvlm.model.tiles import TiledRun, in_tiles
from splitvlm.model.upper_run import CachedPrefixRun, UpperRun

T = TypeVar("T")

if TYPE_CHECKING:
    from cloud_node.engine.torch_engine import TorchEngine

_log = logging.getLogger("splitvlm.cloud.engine")


class TorchSequence:
    """Implements `Sequence` (protocol.py). Its tokens wait in a queue until they are read."""

    def __init__(self, engine: TorchEngine, request: SequenceRequest, kv_row: KvRow) -> None:
        self.times = SequenceTimes()
        self.cancelled = threading.Event()
        self.row: DecodingRow
        self._engine = engine
        self._request = request
        self._kv_row = kv_row
        self._run: UpperRun | None = None  # once its prompt was read,
        self._chunked: UpperRun | None = None  # and while it waits to be read in chunks, or is
        self._queued_s = 0.0  # of time.perf_counter: since when it waits for that
        self._waited_s: float | None = None  # how long it did
        self._steps: deque[Callable[[], Mapping[str, torch.Tensor]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._tokens: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self._read: asyncio.Future[Prefix | Exception | None] = self._loop.create_future()  # of a prompt in chunks
        self._num_tokens = 0  # chosen so far, resumed ones included
        self._begun = asyncio.create_task(self._begin_tiles()) if request.num_tiles > 1 else None

    @property
    def finished(self) -> bool:
        return self._run is not None and self._run.finished

    async def read_tile(self, tile: Mapping[str, torch.Tensor]) -> None:
        assert self._begun is not None, "the request has one tile"
        run = await self._begun
        await self._turn("prefill_s", lambda: run.add(dict(tile)))

    async def prefill(self) -> CachedPrefix | None:
        """Reads the prompt, in chunks while other answers run, and chooses the first token. Raises ProtocolError."""
        if self._begun is not None:
            run: UpperRun = await self._begun
        else:
            run = await self._turn("prefill_s", lambda: _run(self._engine.part, self._request))
            self._forget_inputs()
        if not run.reads_in_chunks or isinstance(run, TiledRun | CachedPrefixRun):
            return await self._turn("prefill_s", lambda: self._prefilled(run))
        await self._turn("prefill_s", lambda: self._prepared(run))
        outcome, self._read = await self._read, self._loop.create_future()  # the prefix is the caller's alone
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def feed(self, step: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """Queues the decoding of a step's boundary, at lm:k; it is decoded in the pass that runs it."""
        self._steps.append(step)
        self._engine.lane.wake()

    def __aiter__(self) -> TorchSequence:
        return self

    async def __anext__(self) -> int:
        token = await self._tokens.get()
        if token is None:
            raise StopAsyncIteration
        if isinstance(token, Exception):
            raise token
        return token

    def cancel(self) -> None:
        """Ends it early: its row is given back after the running job or pass."""
        self.cancelled.set()
        if self._begun is not None:
            self._begun.add_done_callback(_observed)
            self._begun.cancel()
            self._begun = None
        self._engine.give_up(self)

    @property
    def device(self) -> str:
        """Returns the name of the device that asks."""
        return self._request.device

    # What follows runs in the engine's thread.

    @property
    def is_ready(self) -> bool:
        """Tells whether its last token can be run: at lm:k the device has to send the boundary of that token."""
        return self._request.cut.kind is not CutKind.LM or bool(self._steps)

    def next_step(self) -> Boundary | None:
        """Returns the device's boundary of the last token, decoded and checked, at lm:k. Raises ProtocolError."""
        assert self._run is not None, "it runs"
        if self._request.cut.kind is not CutKind.LM:
            return None
        step = dict(self._steps.popleft()())
        self._run.check_step(step)
        return step

    def choose(self, logits_V: torch.Tensor) -> None:
        """Chooses the next token, and hands it over."""
        assert self._run is not None, "it runs"
        self._hand_over(self._run.choose(logits_V, self._resumed()))

    def left(self, error: Exception | None) -> None:
        """Ends it: no token comes any more."""
        self._chunked = None
        self._call(self._end, error)

    @property
    def is_read(self) -> bool:
        """Tells whether the last chunk of its prompt was run."""
        assert self._chunked is not None, "it is read in chunks"
        return not self._chunked.num_unread

    def next_chunk(self, num_tokens: int) -> PromptChunk:
        """Returns the next tokens of its prompt."""
        assert self._chunked is not None, "it is read in chunks"
        if self._waited_s is None:
            self._waited_s = time.perf_counter() - self._queued_s
            self.times.queue_s += self._waited_s
        return self._chunked.next_chunk(num_tokens)

    def join_by(self, logits_V: torch.Tensor) -> None:
        """Chooses the first token by the logits of the prompt's last one, and moves on with the others."""
        run = self._chunked
        assert run is not None, "it is read in chunks"
        try:
            prefix = self._joined(run, run.first_of(logits_V, self._resumed()))
        except Exception as error:  # noqa: BLE001 (the thread goes on)
            if not isinstance(error, SplitvlmError):
                _log.exception("a prompt failed")
            self.left(error)
            return
        self._chunked = None
        self._call(self._engine.was_read, self._waited_s or 0.0, self.times.prefill_s)
        self._call(self._settle, prefix)

    def _prepared(self, run: UpperRun) -> None:
        run.prepare()
        if self.cancelled.is_set():
            self._call(self._end, None)
            return
        self._chunked, self._queued_s = run, time.perf_counter()
        self._engine.read(self)

    def _prefilled(self, run: UpperRun) -> Prefix | None:
        return self._joined(run, run.first(self._resumed()))

    def _joined(self, run: UpperRun, token_id: int) -> Prefix | None:
        """Hands the first token over, and joins the running answers unless it was the last. Returns what may be kept."""
        prefix = run.prefix() if self._request.keep_prefix else None
        if self.cancelled.is_set():
            self._call(self._end, None)
            return None
        self._run = run
        self._hand_over(token_id)
        if run.finished:
            self._call(self._end, None, prefix)
        else:
            self.row = self._engine.row(run)
            self._engine.join(self)
        return prefix

    def _resumed(self) -> int | None:
        """Returns the answer's next token where another node chose it."""
        known = self._request.resume_token_ids
        return known[self._num_tokens] if self._num_tokens < len(known) else None

    def _hand_over(self, token_id: int) -> None:
        self._num_tokens += 1
        self._kv_row.note_token()
        if self._num_tokens > len(self._request.resume_token_ids):
            self._call(self._tokens.put_nowait, token_id)

    def _call(self, method: Callable[..., None], *args: Any) -> None:
        """Calls a method in the event loop, unless that has ended."""
        self._engine.handover.call(self._loop, method, *args)

    # And this in the event loop.

    def _end(self, error: Exception | None, prefix: Prefix | None = None) -> None:
        self._kv_row.give_back()
        if error is not None and not isinstance(error, SplitvlmError):
            error = SplitvlmError("The cloud node failed at this request; its log says why.")
        self._tokens.put_nowait(error)
        self._settle(error or prefix)

    def _settle(self, outcome: Prefix | Exception | None) -> None:
        if not self._read.done():
            self._read.set_result(outcome)

    async def _begin_tiles(self) -> TiledRun:
        run = await self._turn("prefill_s", lambda: _tiled_run(self._engine.part, self._request))
        self._forget_inputs()
        return run

    def _forget_inputs(self) -> None:
        """Drops what the run has taken over, so that its memory is free as soon as the run no longer needs it."""
        self._request = replace(self._request, inputs={}, prefix=None)

    async def _turn(self, counted: Literal["prefill_s", "tokens_s"], work: Callable[[], T]) -> T:
        result, job = await self._engine.lane.run(self._request.device, work)
        self.times.queue_s += job.queue_s
        setattr(self.times, counted, getattr(self.times, counted) + job.busy_s)
        return result


def _run(part: CloudPart, request: SequenceRequest) -> UpperRun:
    """Checks the inputs' values, and makes what runs them. Raises ProtocolError, PrefixEvicted."""
    inputs, limit, sampling = dict(request.inputs), request.max_new_tokens, request.sampling
    if request.prefix is not None:
        return part.prefix_cached(cast(Prefix, request.prefix), request.cut, inputs, limit, sampling)
    if request.cut == IMAGE:
        return part.upper_from_inputs(inputs, limit, sampling)
    return part.upper(request.cut, inputs, limit, sampling)


def _tiled_run(part: CloudPart, request: SequenceRequest) -> TiledRun:
    """Returns a run that has read the first tile. Raises ProtocolError."""
    run = in_tiles(part, request.cut, dict(request.inputs), request.max_new_tokens, request.sampling)
    assert run is not None, "only engines that prefill by tile are given tiles"
    run.begin()
    return run


def _observed(task: asyncio.Task[TiledRun]) -> None:
    """Reads the error of a task that nobody awaits any more."""
    if not task.cancelled():
        task.exception()
