"""A worker in another process as its front end sees it: sessions are relayed over real gRPC and mutual TLS, unread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloud_node.pools.protocol import EnvelopeStream
from cloud_node.pools.relay import SERVICE, RemoteWorker
from cloud_node.worker.server import WorkerServicer
from splitvlm.crypto.identity import Identity, Role
from splitvlm.errors import CapacityError, PeerUnavailable, PermissionRefused
from splitvlm.rpc.servers import NodeServer
from tests.nodes import Keys, until

ENVELOPES = [b"", b"\xff" * 1_000, bytes(60_000)]


class Echo:
    """A worker without a model: what comes goes back, until the bytes `full`."""

    def __init__(self) -> None:
        self.devices: list[str] = []

    async def serve(self, device: str, stream: EnvelopeStream) -> None:
        self.devices.append(device)
        while (envelope := await stream.read()) is not None:
            if envelope == b"full":
                raise CapacityError("No memory.", advice="Later.", retry_after_s=2.5)
            await stream.write(envelope)


class DeviceStream:
    """The device's side of a session, as the front end hands it over."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> bytes | None:
        return await self.sent.get()

    async def write(self, envelope: bytes) -> None:
        self.received.put_nowait(envelope)

    async def echo(self, envelope: bytes) -> bytes:
        self.sent.put_nowait(envelope)
        return await self.received.get()


class Port:
    """A worker's port, and the remote worker that the front end has of it."""

    def __init__(
        self, identity: Identity, address: str, server: NodeServer, servicer: WorkerServicer, worker: Echo
    ) -> None:
        self.address = address
        self.server = server
        self.servicer = servicer
        self.worker = worker
        self.remote = RemoteWorker(address, identity)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
async def port(keys: Keys) -> AsyncIterator[Port]:
    identity, worker = keys.identity("cloud-1", Role.CLOUD), Echo()
    server, servicer = NodeServer(identity, [SERVICE]), WorkerServicer(worker, identity)
    server.grpc.add_generic_rpc_handlers((servicer.handler(),))
    port = Port(identity, await server.listen("127.0.0.1:0"), server, servicer, worker)
    yield port
    await port.remote.close()
    await server.drain(0)


@contextlib.asynccontextmanager
async def session(remote: RemoteWorker, stream: DeviceStream) -> AsyncIterator[asyncio.Task[None]]:
    serving = asyncio.create_task(remote.serve("edge-1", stream))
    try:
        yield serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_envelopes_go_both_ways_as_they_came(port: Port) -> None:
    stream = DeviceStream()
    async with session(port.remote, stream) as serving:
        assert [await stream.echo(envelope) for envelope in ENVELOPES] == ENVELOPES
        assert port.remote.num_sessions == port.servicer.num_sessions == 1
        stream.sent.put_nowait(None)
        await serving
    assert port.worker.devices == ["edge-1"]
    assert port.remote.num_sessions == 0
    await until(lambda: not port.servicer.num_sessions)


async def test_a_worker_s_error_is_the_session_s(port: Port) -> None:
    stream = DeviceStream()
    async with session(port.remote, stream) as serving:
        stream.sent.put_nowait(b"full")
        with pytest.raises(CapacityError, match="No memory") as refused:
            await serving
    assert refused.value.retry_after_s == 2.5


async def test_a_session_that_the_front_end_ends_ends_in_the_worker(port: Port) -> None:
    stream = DeviceStream()
    async with session(port.remote, stream):
        await stream.echo(b"hello")
    await until(lambda: not port.servicer.num_sessions)
    assert port.remote.num_sessions == 0


async def test_a_worker_that_goes_away_ends_its_sessions_and_refuses_the_next(port: Port) -> None:
    stream = DeviceStream()
    async with session(port.remote, stream) as serving:
        await stream.echo(b"hello")
        await port.server.grpc.stop(0)
        with pytest.raises(PeerUnavailable):
            await serving
    async with session(port.remote, DeviceStream()) as serving:
        with pytest.raises(PeerUnavailable):
            await serving


async def test_a_device_that_does_not_read_ends_its_session(port: Port) -> None:
    class Deaf(DeviceStream):
        async def write(self, envelope: bytes) -> None:
            raise TimeoutError

    stream = Deaf()
    async with session(port.remote, stream) as serving:
        stream.sent.put_nowait(b"hello")
        with pytest.raises(TimeoutError):
            await serving
    await until(lambda: not port.servicer.num_sessions)


@pytest.mark.parametrize(("name", "role"), [("cloud-2", Role.CLOUD), ("edge-1", Role.EDGE)])
async def test_others_than_the_cloud_node_itself_may_not_relay(port: Port, keys: Keys, name: str, role: Role) -> None:
    stranger = RemoteWorker(port.address, replace(keys.identity(name, role), node="cloud-1", renewal=None))
    async with session(stranger, DeviceStream()) as serving:
        with pytest.raises(PermissionRefused):
            await serving
    await stranger.close()
    assert not port.worker.devices


async def test_another_node_is_not_taken_for_a_worker(port: Port, keys: Keys) -> None:
    other = RemoteWorker(port.address, keys.identity("cloud-2", Role.CLOUD))
    async with session(other, DeviceStream()) as serving:
        with pytest.raises(PeerUnavailable):
            await serving
    await other.close()
    assert not port.worker.devices
