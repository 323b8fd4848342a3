"""One session: it takes frames and sends frames, one request at a time. Nothing of it outlives its stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from cloud_node.settings import CloudLimits
from cloud_node.worker.answering import Answering, check_agreed_variant
from cloud_node.worker.runtime import Runtime
from cloud_node.worker.upload import Upload
from splitvlm.domain import FULL, Plan
from splitvlm.errors import CapacityError, DeadlineExceeded, ProtocolError, SplitvlmError, UsageError
from splitvlm.grammar.grammar import Grammar
from splitvlm.rpc.sampling import sampling_of
from splitvlm.rpc.sealed_stream import SealedStream
from splitvlm.rpc.status import retry_after_ms
from splitvlm.rpc.tokens import token_to_wire
from splitvlm.wire.v1.data_pb2 import Begin, CloudFrame, DeviceFrame, End, Envelope, Failure, Segment

_log = logging.getLogger("splitvlm.cloud.session")

SessionStream = SealedStream[CloudFrame, DeviceFrame]
Read = Callable[[], Awaitable[Envelope | None]]
"""Gives the next envelope; None once the device has closed."""


class Session:
    """Serves one open session, as its worker sees it."""

    def __init__(
        self,
        stream: SessionStream,
        runtime: Runtime,
        limits: CloudLimits,
        device: str,
        require_current: Callable[[], None],
        variants: frozenset[str] = frozenset({FULL}),
    ) -> None:
        """Takes the device that sealed the session; `require_current` raises a SplitvlmError once that may ask nothing more.

        `variants` are those that the handshake agreed on.
        """
        self._stream = stream
        self._require_current = require_current
        self._variants = variants
        self._runtime = runtime
        self._limits = limits
        self._device = device
        self._received = runtime.admission.reservation(device)  # what came of the request,
        self._reservation = runtime.admission.reservation(device)  # and what was made of it
        self._last = ("", 0)  # plan and max_new_tokens of the last request
        self._upload: Upload | None = None
        self._steps: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)  # a device sends a step for each token that it has
        self._segments: asyncio.Queue[bytes] = asyncio.Queue()  # of the running request, as they are complete
        self._answer: asyncio.Task[None] | None = None  # None from before its last frame on: the device may begin again
        self._sending: set[asyncio.Task[None]] = set()  # answers, those that send their last frame among them
        self._broken: BaseException | None = None  # what the stream raised under an answer
        self._grammar: Grammar | None = None  # of the running answer: while it is held, the engine finds it compiled
        self.requests = 0

    async def run(self, read: Read) -> None:
        """Serves until the device closes.

        Raises ProtocolError on a breach and DeadlineExceeded on silence; the caller then ends the stream.
        """
        try:
            while (envelope := await self._next(read)) is not None:
                received = self._stream.bytes_received
                frame = self._stream.open(envelope)
                await self._handle(frame, self._stream.bytes_received - received)
                if self._broken is not None:
                    raise self._broken
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)
            self._release()

    async def _next(self, read: Read) -> Envelope | None:
        """Returns the next envelope. Raises DeadlineExceeded where an upload takes, or a session is silent, for too long."""
        if self._upload is not None:
            left_s = self._upload.began_s + self._limits.max_upload_s - time.perf_counter()
            late = DeadlineExceeded("The request's payload did not come in time.", advice="Look at the link.")
        else:
            left_s = self._limits.idle_session_s
            late = DeadlineExceeded("The session was idle for too long.", advice="Open a new one.")
        try:
            return await asyncio.wait_for(read(), left_s)  # noqa: TID251  (a read ends with its call, however it was cancelled)
        except TimeoutError as error:
            raise late from error

    async def _handle(self, frame: DeviceFrame, wire_bytes: int) -> None:
        match frame.WhichOneof("body"):
            case "begin":
                await self._begin(frame.begin, wire_bytes)
            case "chunk" if self._upload is not None:
                await self._take(self._upload, frame.chunk, wire_bytes)
            case "segment" if self._upload is not None:
                await self._next_segment(self._upload, frame.segment, wire_bytes)
            case "chunk" | "segment":
                pass  # the rest of a payload whose request was refused or cancelled is on its way still
            case "step":
                self._step(frame.step)
            case "cancel":
                await self._cancel()
            case _:
                raise ProtocolError("The peer sent an empty frame.")

    async def _begin(self, begin: Begin, wire_bytes: int) -> None:
        if self._busy():
            raise ProtocolError("The peer began a request before the last one ended.")
        self.requests += 1
        self._fill_in(begin)
        try:
            self._require_current()
            self._check(begin)
            check_agreed_variant(Plan.parse(begin.plan), self._variants)
            upload = Upload(begin, self._limits.max_payload_bytes)
            self._runtime.admission.begin(self._device, picture=upload.is_picture)
            self._received.check(begin.payload_bytes)  # not booked: what a peer declares takes nothing
        except SplitvlmError as error:
            await self._stream.send(_failed(error))
            return
        self._upload = upload
        await self._take(upload, begin.first, wire_bytes)

    def _fill_in(self, begin: Begin) -> None:
        """Fills in what the device left out because it is known here."""
        plan, max_new_tokens = self._last
        begin.plan = begin.plan or plan
        begin.max_new_tokens = begin.max_new_tokens or max_new_tokens
        begin.payload_bytes = begin.payload_bytes or len(begin.first)
        self._last = begin.plan, begin.max_new_tokens

    async def _next_segment(self, upload: Upload, segment: Segment, wire_bytes: int) -> None:
        num_bytes = segment.payload_bytes or len(segment.first)
        try:
            upload.next_segment(num_bytes)
        except UsageError as error:
            await self._refuse(error)
            return
        await self._take(upload, segment.first, wire_bytes)

    async def _refuse(self, error: SplitvlmError) -> None:
        await self._give_up()
        await self._stream.send(_failed(error))

    async def _take(self, upload: Upload, piece: bytes, wire_bytes: int) -> None:
        try:
            self._received.more(len(piece))
        except (UsageError, CapacityError) as error:
            await self._refuse(error)
            return
        upload.add(piece, wire_bytes)
        if not upload.segment_complete:
            return
        if not upload.segments_left:
            self._upload = None
        await self._stream.send(upload.receipt())
        if upload.is_first_segment:  # not: where no answer runs, for it may have failed while others were on their way
            self._steps = asyncio.Queue(maxsize=max(1, len(upload.begin.resume_token_ids)))
            self._segments = asyncio.Queue()
            self._answer = asyncio.create_task(self._run_answer(upload.begin))
            self._sending.add(self._answer)
            self._answer.add_done_callback(self._answer_ended)
        self._segments.put_nowait(upload.segment())

    async def _run_answer(self, begin: Begin) -> None:
        async with contextlib.aclosing(self._frames(begin)) as frames:
            async for frame in frames:
                if frame.WhichOneof("body") != "token":
                    self._upload, self._answer = None, None  # what is on its way still is not taken any more
                    self._release()
                await self._stream.send(frame)

    def _answer_ended(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if self._answer is task:
            self._answer = None  # its error's traceback refers to this object
        if not task.cancelled():
            self._broken = self._broken or task.exception()

    async def _frames(self, begin: Begin) -> AsyncGenerator[CloudFrame, None]:
        """Yields the answer's tokens, then its end or its failure: nothing that a request meets ends its session."""
        try:
            constraint = sampling_of(begin).constraint
            self._grammar = None if constraint is None else await self._runtime.part.grammars.ready(constraint)
            answering = Answering(self._runtime, self._device, begin, self._segments, self._steps, self._reservation)
            async with contextlib.aclosing(answering.tokens()) as tokens:
                async for token in tokens:
                    yield CloudFrame(token=token_to_wire(token))
            yield CloudFrame(end=answering.end)
        except SplitvlmError as error:
            yield _failed(error)
        except Exception:  # noqa: BLE001 (the one boundary of requests: libraries raise what they like)
            _log.exception("request failed")
            yield _failed(SplitvlmError("The cloud node failed at this request; its log says why."))

    def _step(self, step: bytes) -> None:
        if not self._busy():
            return  # the answer ended while the step was on its way
        try:
            self._steps.put_nowait(step)
        except asyncio.QueueFull as error:
            raise ProtocolError("The peer sent a step that no token asked for.") from error

    async def _cancel(self) -> None:
        """Gives the running request up. One whose last frame is on its way has ended by itself."""
        if await self._give_up():
            await self._stream.send(CloudFrame(end=End(reason=End.REASON_CANCELLED)))

    async def _give_up(self) -> bool:
        """Drops the upload and the answer, and what they hold; returns whether there was any."""
        busy, task = self._busy(), self._answer
        self._upload, self._answer = None, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._release()
        return busy

    def _release(self) -> None:
        self._received.release()
        self._reservation.release()

    def _busy(self) -> bool:
        return self._upload is not None or self._answer is not None

    def _check(self, begin: Begin) -> None:
        if not 1 <= begin.max_new_tokens <= self._limits.max_new_tokens:
            raise UsageError(
                f"max_new_tokens is {begin.max_new_tokens}, but this cloud node takes 1 to {self._limits.max_new_tokens}."
            )

        if len(begin.resume_token_ids) >= begin.max_new_tokens or any(
            id >= self._runtime.part.spec.vocab_size for id in begin.resume_token_ids
        ):
            raise UsageError("The tokens that are given already are too many, or none of this model.")


def _failed(error: SplitvlmError) -> CloudFrame:
    return CloudFrame(
        failure=Failure(
            code=error.code, sentence=error.sentence, advice=error.advice, retry_after_ms=retry_after_ms(error)
        )
    )
