"""Sends one request's segments over a session as they are made, beside whoever reads their receipts."""

from __future__ import annotations

import asyncio
import time

from edge_node.cloud.cloud_request import CloudRequest
from edge_node.cloud.session import CloudSession
from edge_node.cloud.uploads import Upload
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.rpc.limits import CHUNK_BYTES
from splitvlm.rpc.sampling import sampling_to_wire
from splitvlm.wire.v1 import data_pb2 as pb


class SegmentSender:
    """Sends one request's segments in a task of its own."""

    def __init__(self, session: CloudSession, request: CloudRequest, upload: Upload) -> None:
        self._session = session
        self._request = request
        self._upload = upload
        self._begun: asyncio.Queue[None] = asyncio.Queue()  # one item for each segment that began, and one at the end
        self._task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Tells whether all is sent."""
        return self._task is not None and self._task.done()

    async def next_begun(self) -> None:
        """Waits until the next segment has begun; the first call starts the sending. Raises what sending raised."""
        if self._task is None:
            self._task = asyncio.create_task(self._send_all())
            self._task.add_done_callback(lambda _: self._begun.put_nowait(None))  # also where it fails before its end
        await self._begun.get()
        if self._task.done():
            await self._task

    async def finish(self) -> None:
        """Waits until all is sent. Raises what sending raised."""
        assert self._task is not None, "it was started"
        await self._task

    async def stop(self) -> None:
        """Sends nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None  # its error's traceback refers to this object

    async def _send_all(self) -> None:
        segments, stream = self._request.payload.segments, self._session.stream
        for index in range(segments.count):
            data = await segments.segment(index)
            self._upload.segment_began(len(data), stream.bytes_sent, time.perf_counter())
            self._begun.put_nowait(None)
            size = len(data) if len(data) > CHUNK_BYTES else 0
            await stream.send(self._later(data, size) if index else self._first(data, size))
            for start in range(CHUNK_BYTES, len(data), CHUNK_BYTES):
                await stream.send(pb.DeviceFrame(chunk=data[start : start + CHUNK_BYTES]))

    def _first(self, data: bytes, size: int) -> pb.DeviceFrame:
        """Returns the request's first frame. What the session's last request said is not said again."""
        request, payload = self._request, self._request.payload
        plan, max_new_tokens = str(payload.plan), request.answer.max_new_tokens
        last_plan, last_max_new_tokens = self._session.last_begin
        self._session.last_begin = plan, max_new_tokens
        return pb.DeviceFrame(
            begin=pb.Begin(
                plan="" if plan == last_plan else plan,
                payload_bytes=size,
                max_new_tokens=0 if max_new_tokens == last_max_new_tokens else max_new_tokens,
                first=data[:CHUNK_BYTES],
                conversation=conversation_to_wire(payload.conversation) if payload.conversation is not None else None,
                prefix=request.prefix_name,
                prefix_cached=payload.prefix_cached,
                cached_prefix=_unless(request.prefix_name, payload.cached.name) if payload.cached is not None else b"",
                prefix_tokens=payload.prefix_tokens,
                resume_token_ids=request.answer.resume_token_ids,
                sampling=sampling_to_wire(request.answer.sampling),
                segments=payload.segments.count if payload.segments.count > 1 else 0,
            )
        )

    def _later(self, data: bytes, size: int) -> pb.DeviceFrame:
        return pb.DeviceFrame(segment=pb.Segment(payload_bytes=size, first=data[:CHUNK_BYTES]))


def _unless(known: bytes, name: bytes) -> bytes:
    """Returns a name, or nothing where it is the one that is known."""
    return b"" if name == known else name
