"""Plan streams: each device has at most one, and it carries the newest table only.

Nothing here waits under a lock: a stream is a place for one message and an event, so that whoever is cancelled while waiting
leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from orchestrator.registry import EdgeNode
from orchestrator.tables import DeviceTable
from splitvlm.errors import Cancelled, CapacityError, SplitvlmError
from splitvlm.wire.v1 import control_pb2 as pb

MAX_STREAMS = 10_000

Basis = tuple[EdgeNode, int, int]
"""What a table was made from: the registration, the generation of its cloud nodes, and that of the settings."""


class PlanStream:
    """Carries plan tables to one device: room for one message."""

    def __init__(self, node: str, instance: str) -> None:
        self.node = node
        self.instance = instance
        self.basis: Basis | None = None  # of the table that was looked at last
        self.sent: DeviceTable | None = None
        self._newest: pb.PlanTable | None = None
        self._end: SplitvlmError | None = None
        self._changed = asyncio.Event()

    def put(self, message: pb.PlanTable) -> None:
        """Puts the next message; one that was not taken yet is dropped."""
        self._newest = message
        self._changed.set()

    def end(self, reason: SplitvlmError) -> None:
        """Ends the stream: what was put before is not sent any more."""
        self._end = reason
        self._changed.set()

    async def messages(self) -> AsyncIterator[pb.PlanTable]:
        """Yields each newest message. Raises the reason of the end."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._end is not None:
                raise self._end
            message, self._newest = self._newest, None
            if message is not None:
                yield message


class PlanStreams:
    """Holds the open streams, by device."""

    def __init__(self, max_streams: int = MAX_STREAMS) -> None:
        self._streams: dict[str, PlanStream] = {}
        self._max_streams = max_streams
        self._end: SplitvlmError | None = None

    def open(self, node: str, instance: str) -> PlanStream:
        """Opens a stream that takes the place of the node's older one.

        Raises CapacityError, or the reason of the end of all.
        """
        if self._end is not None:
            raise self._end
        if (older := self._streams.get(node)) is not None:
            older.end(Cancelled(f"Another plan stream of {node} took the place of this one."))
        elif len(self._streams) >= self._max_streams:
            raise CapacityError(f"The orchestrator serves {self._max_streams} plan streams, and takes no more.")
        stream = self._streams[node] = PlanStream(node, instance)
        return stream

    def close(self, stream: PlanStream) -> None:
        """Forgets a stream that has ended, unless another of the node has taken its place."""
        if self._streams.get(stream.node) is stream:
            del self._streams[stream.node]

    def has(self, node: str, instance: str) -> bool:
        """Tells whether this process of the node has a stream open."""
        stream = self._streams.get(node)
        return stream is not None and stream.instance == instance

    def end_all(self, reason: SplitvlmError) -> None:
        """Ends the open streams, and lets none be opened."""
        self._end = reason
        for stream in self._streams.values():
            stream.end(reason)

    def all(self) -> list[PlanStream]:
        """Returns all open streams, at most one a device."""
        return list(self._streams.values())
