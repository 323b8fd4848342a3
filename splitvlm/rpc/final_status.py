"""Tells with which status a peer ended a stream, also where gRPC has put one of its own in that status's place.

A write that meets the stream's end fails, and grpc.aio then ends the call here as INTERNAL, "Internal error from Core". What
the peer said (its error, its advice, when to come back) is set a moment later, and nobody is told of it: it must be looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc

PLACEHOLDER = grpc.StatusCode.INTERNAL, "Internal error from Core"  # grpc/_cython/_cygrpc/aio/call.pyx.pxi
PEER_STATUS_TIMEOUT_S = 5.0  # from the placeholder to the peer's status, which has arrived or is on its way
LOOK_S = 0.005


async def final_error(call: grpc.aio.StreamStreamCall[Any, Any]) -> grpc.aio.AioRpcError | None:
    """Waits for the call's end. Returns the peer's status as an error, or None where the peer ended in order."""
    with contextlib.suppress(TimeoutError):
        if await _is_placeholder(call):
            async with asyncio.timeout(PEER_STATUS_TIMEOUT_S):
                while await _is_placeholder(call):  # noqa: ASYNC110  gRPC tells nobody
                    await asyncio.sleep(LOOK_S)
    if (code := await call.code()) is grpc.StatusCode.OK:
        return None
    trailers = await call.trailing_metadata() or grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details=await call.details())


async def _is_placeholder(call: grpc.aio.StreamStreamCall[Any, Any]) -> bool:
    return (await call.code(), await call.details()) == PLACEHOLDER
