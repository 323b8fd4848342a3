"""A write that meets a stream's end puts a status of gRPC's own before the peer's: who asks is told the peer's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from splitvlm.errors import CapacityError
from splitvlm.rpc import final_status
from splitvlm.rpc.final_status import PLACEHOLDER, FinalStatus
from splitvlm.rpc.status import abort, from_rpc


async def ends_at_a_message(_requests: Any, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
    """A stream that the message `full` ends with an error, `end` in order, and any other not at all."""
    while (message := await context.read()) != b"end":
        if message == b"full":
            await abort(context, CapacityError("No memory.", retry_after_s=2.5))


@pytest.fixture
async def call() -> AsyncIterator[grpc.aio.StreamStreamCall[bytes, bytes]]:
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(ends_at_a_message)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"Ends": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.stream_stream("/s/Ends")()
    await server.stop(0)


async def write_that_meets_the_end(call: grpc.aio.StreamStreamCall[bytes, bytes], message: bytes) -> None:
    """What grpc.aio does where Core fails a write: the status is its own, before the peer's comes."""
    await call.wait_for_connection()
    call._cython_call.set_internal_error("Failed to send")  # type: ignore[attr-defined]
    assert (await call.code(), await call.details()) == PLACEHOLDER
    await call._cython_call.send_serialized_message(message)  # type: ignore[attr-defined]


@pytest.fixture
def final(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> FinalStatus:
    return FinalStatus(call)


async def test_the_peer_s_error_is_told(call: grpc.aio.StreamStreamCall[bytes, bytes], final: FinalStatus) -> None:
    await call.write(b"full")
    error = await final.error()
    assert error is not None
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_peer_s_error_is_told_although_a_write_met_the_end(
    call: grpc.aio.StreamStreamCall[bytes, bytes], final: FinalStatus
) -> None:
    await write_that_meets_the_end(call, b"full")
    for _ in range(2):  # it stays
        error = await final.error()
        assert error is not None
        told = from_rpc(error, "peer")
        assert isinstance(told, CapacityError)
        assert (told.sentence, told.retry_after_s) == ("No memory.", 2.5)


async def test_the_peer_s_error_is_told_although_a_write_failed_after_it(
    call: grpc.aio.StreamStreamCall[bytes, bytes], final: FinalStatus
) -> None:
    await call.write(b"full")
    await call.code()
    call._cython_call.set_internal_error("Failed to send")  # type: ignore[attr-defined]
    assert (await call.code(), await call.details()) == PLACEHOLDER
    error = await final.error()
    assert error is not None
    assert isinstance(from_rpc(error, "peer"), CapacityError)


async def test_an_end_in_order_is_no_error_although_a_write_met_it(
    call: grpc.aio.StreamStreamCall[bytes, bytes], final: FinalStatus
) -> None:
    await write_that_meets_the_end(call, b"end")
    assert await final.error() is None


async def test_where_the_peer_says_nothing_more_grpc_s_own_status_is_told(
    call: grpc.aio.StreamStreamCall[bytes, bytes], final: FinalStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_status, "PEER_STATUS_TIMEOUT_S", 0.05)
    await write_that_meets_the_end(call, b"go on")
    error = await final.error()
    assert error is not None
    assert (error.code(), error.details()) == PLACEHOLDER
