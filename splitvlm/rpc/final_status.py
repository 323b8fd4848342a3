"""Tells with which status a peer ended a stream, also where gRPC has put one of its own in that status's place.

A write that meets the stream's end fails, and grpc.aio then ends the call here as INTERNAL, "Internal error from Core". That
happens a moment before the peer's status (its error, its advice, when to come back) is set, and then nobody is told of the
peer's: it must be looked for. Or it happens a moment after, and then the peer's is lost, unless a callback saw it: a call runs
its callbacks when a status is set for the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

T = TypeVar("T")

PLACEHOLDER = grpc.StatusCode.INTERNAL, "Internal error from Core"  # grpc/_cython/_cygrpc/aio/call.pyx.pxi
PEER_STATUS_TIMEOUT_S = 5.0  # from the placeholder to the peer's status, which has arrived or is on its way
LOOK_S = 0.005


@dataclass(frozen=True, slots=True)
class _Status:
    code: grpc.StatusCode
    details: str
    trailers: grpc.aio.Metadata

    @property
    def is_placeholder(self) -> bool:
        return (self.code, self.details) == PLACEHOLDER


class FinalStatus:
    """Holds the status with which the peer ends one call. It is made together with the call."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        self._call = call
        self._status: _Status
        call.add_done_callback(self._note)

    async def error(self) -> grpc.aio.AioRpcError | None:
        """Waits for the call's end. Returns the peer's status as an error, or None where the peer ended in order."""
        await self._call.code()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PEER_STATUS_TIMEOUT_S):
                while self._status.is_placeholder:
                    await asyncio.sleep(LOOK_S)
                    self._note(self._call)
        if self._status.code is grpc.StatusCode.OK:
            return None
        return grpc.aio.AioRpcError(
            self._status.code, grpc.aio.Metadata(), self._status.trailers, details=self._status.details
        )

    def _note(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        """Keeps the call's status as it is now."""
        trailers = _at_once(call.trailing_metadata()) or grpc.aio.Metadata()
        self._status = _Status(_at_once(call.code()), _at_once(call.details()), trailers)


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that has nothing to wait for: a task would run when the status has been replaced."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: T = finished.value
        return result
    coroutine.close()
    raise AssertionError("A call that has ended knows its status.")
