"""Whatever a servicer's method raises reaches its caller as a status of ours, and tells it nothing of the node's inside."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from splitvlm.errors import UsageError
from splitvlm.rpc.status import streaming, unary

SECRET = "a detail of the node's inside"
ERRORS = [
    struct.error(SECRET), zlib.error(SECRET), AttributeError(SECRET), AssertionError(SECRET), ZeroDivisionError(SECRET),
    MemoryError(SECRET), EOFError(SECRET), RecursionError(SECRET), StopAsyncIteration(SECRET), Exception(SECRET),
    grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), SECRET),
]  # fmt: skip


class Failing(grpc.GenericRpcHandler):
    """A server whose methods raise one error, in one piece or as a stream."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @unary
    async def whole(self, _request: bytes, _context: Any) -> bytes:
        raise self._error

    @streaming
    async def streamed(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"a first message"
        raise self._error

    @unary
    async def refusing(self, _request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "by its own status")
        raise AssertionError("abort raises")

    def service(self, details: Any) -> Any:
        match details.method:
            case "/test/whole":
                return grpc.unary_unary_rpc_method_handler(self.whole)
            case "/test/refusing":
                return grpc.unary_unary_rpc_method_handler(self.refusing)
        return grpc.unary_stream_rpc_method_handler(self.streamed)


async def failure_of(error: Exception, method: str) -> grpc.aio.AioRpcError:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Failing(error)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await _called(channel, method)
            return caught.value
    finally:
        await server.stop(None)


async def _called(channel: grpc.aio.Channel, method: str) -> None:
    if method == "/test/streamed":
        async for _ in channel.unary_stream(method)(b""):
            pass
    else:
        await channel.unary_unary(method)(b"")


@pytest.mark.parametrize("method", ["/test/whole", "/test/streamed"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_unforeseen_error_is_internal_and_says_nothing(error: Exception, method: str) -> None:
    failure = await failure_of(error, method)
    assert failure.code() is grpc.StatusCode.INTERNAL
    assert failure.details() == "The node failed at this call; its log says why."


@pytest.mark.parametrize("method", ["/test/whole", "/test/streamed"])
async def test_an_error_of_ours_keeps_its_status_and_sentence(method: str) -> None:
    failure = await failure_of(UsageError("This is wrong."), method)
    assert (failure.code(), failure.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "This is wrong.")


async def test_a_method_may_still_end_by_its_own_status() -> None:
    failure = await failure_of(Exception(), "/test/refusing")
    assert (failure.code(), failure.details()) == (grpc.StatusCode.NOT_FOUND, "by its own status")
