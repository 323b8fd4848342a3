"""A front end over real gRPC and mutual TLS, in front of workers that are no models: bytes go through it as they came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud_node.frontend.servicer import SERVICE, DataServicer
from cloud_node.pools.protocol import EnvelopeStream, PoolLoad, Worker
from cloud_node.settings import CloudLimits
from splitvlm.crypto.identity import Role
from splitvlm.errors import CapacityError, HandshakeRefused, SplitvlmError
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.final_status import FinalStatus
from splitvlm.rpc.servers import NodeServer
from splitvlm.rpc.status import from_rpc
from tests.nodes import Keys, offer, until

NO_ENVELOPES = [b"", b"\xff" * 1_000, b"plain text", bytes(60_000)]


class Echo:
    """A pool and its worker: what comes goes back, until the bytes `stop`."""

    load = PoolLoad(1, 0.0)

    def __init__(self) -> None:
        self.devices: list[str] = []
        self.full = False
        self.ended = 0

    def worker_for(self, device: str) -> Worker:
        if self.full:
            raise CapacityError("No worker is free.", advice="Later.", retry_after_s=2.5)
        return self

    async def serve(self, device: str, stream: EnvelopeStream) -> None:
        self.devices.append(device)
        try:
            while (envelope := await stream.read()) is not None:
                if envelope == b"stop":
                    raise HandshakeRefused("The worker has had enough.", advice="Ask less.")
                await stream.write(envelope)
        finally:
            self.ended += 1

    def use(self, limits: CloudLimits) -> None:
        pass

    def close(self) -> bool:
        return True


class Front:
    def __init__(self, pool: Echo, servicer: DataServicer, channel: grpc.aio.Channel) -> None:
        self.pool = pool
        self.servicer = servicer
        self._channel = channel

    def call(self) -> Any:
        """A session whose messages are bytes."""
        return self._channel.stream_stream(f"/{SERVICE}/Session")()


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    keys, pool = Keys(tmp_path / "keys"), Echo()
    identity = keys.identity("cloud-1", Role.CLOUD)
    servicer = DataServicer(pool, CloudLimits(max_sessions_per_device=2), plaintext=False)
    server = NodeServer(identity, [SERVICE])
    server.grpc.add_generic_rpc_handlers((servicer.handler(),))
    address = await server.listen("127.0.0.1:0")
    async with open_channel(address, keys.identity("edge-1", Role.EDGE), Role.CLOUD) as channel:
        yield Front(pool, servicer, channel)
    await server.drain(1.0)


async def refusal(call: Any, data: bytes) -> SplitvlmError:
    """Sends bytes that end the session, and returns the error that the front end says."""
    final = FinalStatus(call)
    await offer(call, data)
    error = await final.error()
    assert error is not None
    return from_rpc(error, "cloud node")


async def test_bytes_go_through_as_they_came_whatever_they_are(front: Front) -> None:
    call = front.call()
    for data in NO_ENVELOPES:
        await call.write(data)
        assert await call.read() == data
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    assert front.pool.devices == ["edge-1"]
    await until(lambda: not front.servicer.active)


async def test_a_worker_s_error_ends_the_stream_with_its_status(front: Front) -> None:
    error = await refusal(front.call(), b"stop")
    assert isinstance(error, HandshakeRefused)
    assert error.sentence == "The worker has had enough."
    assert front.servicer.refused == {error.code: 1}


async def test_a_pool_without_a_free_worker_says_when_to_come_back(front: Front) -> None:
    front.pool.full = True
    error = await refusal(front.call(), b"hello")
    assert isinstance(error, CapacityError)
    assert error.retry_after_s == 2.5
    assert not front.pool.devices
    await until(lambda: not front.servicer.active)


async def test_a_device_that_says_nothing_costs_no_worker_anything(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud_node.frontend.servicer.HANDSHAKE_TIMEOUT_S", 0.2)
    call = front.call()
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not front.pool.devices


async def test_a_device_that_goes_away_ends_its_session_in_the_worker(front: Front) -> None:
    call = front.call()
    await call.write(b"hello")
    assert await call.read() == b"hello"
    assert front.servicer.active == {"edge-1": 1}
    call.cancel()
    await until(lambda: front.pool.ended == 1)
    await until(lambda: not front.servicer.active)


async def test_sessions_beyond_a_device_s_limit_reach_no_worker(front: Front) -> None:
    calls = [front.call() for _ in range(2)]
    for call in calls:
        await call.write(b"hello")
        assert await call.read() == b"hello"
    assert isinstance(await refusal(front.call(), b"hello"), CapacityError)
    assert len(front.pool.devices) == 2
    for call in calls:
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
