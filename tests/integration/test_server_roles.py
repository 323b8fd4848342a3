"""A client talks to the role and host that it means to reach: valid certificates of others are refused, on all three planes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_node.cloud.link import CloudLink
from splitvlm.crypto import certificates
from splitvlm.crypto.authority import LOOPBACK, issue, rotate
from splitvlm.crypto.identity import Identity, Role, load_identity
from splitvlm.domain import Conversation
from splitvlm.errors import PeerUnavailable
from splitvlm.host_port import host_and_port
from splitvlm.rpc.channels import connected, open_channel
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import control_pb2, control_pb2_grpc, data_pb2, data_pb2_grpc, local_pb2, local_pb2_grpc
from tests.nodes import Keys, until

ROLES = list(Role)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


class Trap(data_pb2_grpc.DataServicer, control_pb2_grpc.ControlServicer, local_pb2_grpc.LocalServicer):
    """Serves every plane to everybody, and notes what it was sent."""

    def __init__(self) -> None:
        self.got: list[str] = []

    async def Session(self, request_iterator: Any, context: Any) -> None:
        self.got.append("session")

    async def Probe(self, request: data_pb2.ProbeRequest, context: Any) -> data_pb2.ProbeReply:
        self.got.append("probe")
        return data_pb2.ProbeReply()

    async def Register(self, request: control_pb2.Registration, context: Any) -> control_pb2.RegisterReply:
        self.got.append("registration")
        return control_pb2.RegisterReply(heartbeat_ms=60_000)

    async def Ask(self, request: local_pb2.Question, context: Any) -> AsyncIterator[local_pb2.Answer]:
        self.got.append("question")
        yield local_pb2.Answer(text="a lie")

    async def Status(self, request: local_pb2.StatusRequest, context: Any) -> local_pb2.StatusReply:
        self.got.append("status")
        return local_pb2.StatusReply()


@contextlib.asynccontextmanager
async def trap(identity: Identity) -> AsyncIterator[tuple[str, Trap]]:
    server, servicer = NodeServer(identity, []), Trap()
    data_pb2_grpc.add_DataServicer_to_server(servicer, server.grpc)
    control_pb2_grpc.add_ControlServicer_to_server(servicer, server.grpc)
    local_pb2_grpc.add_LocalServicer_to_server(servicer, server.grpc)
    address = await server.listen("127.0.0.1:0")
    await server.set_ready()
    try:
        yield address, servicer
    finally:
        await server.drain(0.0)


def others(role: Role) -> list[Role]:
    return [other for other in ROLES if other is not role]


@pytest.mark.parametrize("role", others(Role.EDGE))
async def test_an_application_asks_no_other_role(keys: Keys, role: Role) -> None:
    async with trap(keys.identity("trap", role)) as (address, servicer):
        client = EdgeClient(address, keys.identity("viewer", Role.APP))
        with pytest.raises(PeerUnavailable, match="shows a certificate of another role"):
            await client.connect(1.0)
        with pytest.raises(PeerUnavailable, match="shows a certificate of another role"):
            async for _ in client.ask(Conversation.about("question"), [b"picture"]):
                pass
        await client.close()
    assert servicer.got == []


@pytest.mark.parametrize("role", others(Role.ORCHESTRATOR))
async def test_a_node_registers_with_no_other_role(keys: Keys, role: Role, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="splitvlm.control")
    async with trap(keys.identity("trap", role)) as (address, servicer):
        client = ControlClient(address, keys.identity("edge-1", Role.EDGE))
        beating = asyncio.create_task(client.stay_registered(control_pb2.Registration(), control_pb2.HeartbeatRequest))
        await until(lambda: "shows a certificate of another role" in caplog.text)
        beating.cancel()
        await client.close()
        assert not client.reachable
    assert servicer.got == []


@pytest.mark.parametrize("role", others(Role.CLOUD))
async def test_a_device_sends_nothing_to_another_role(keys: Keys, role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edge_node.cloud.prober.PROBE_TIMEOUT_S", 1.0
    )  # a channel that is never ready is waited for so long
    async with trap(keys.identity("trap", role)) as (address, servicer):
        link = CloudLink(address, data_pb2.Compatibility(), keys.identity("edge-1", Role.EDGE), [])
        with pytest.raises(PeerUnavailable, match="shows a certificate of another role"):
            await link.sessions.warm_up()
        await link.prober.probe()
        assert not link.health.reachable
        await link.close()
    assert servicer.got == []


@pytest.mark.parametrize(
    ("hosts", "name", "reached"),
    [
        (LOOPBACK, "127.0.0.1", True),
        (LOOPBACK, "localhost", True),
        (("cloud.example", "10.1.2.3"), "127.0.0.1", False),
        (("127.0.0.2", "127.0.0.1.example"), "127.0.0.1", False),
    ],
)
async def test_the_host_is_checked_with_the_role(keys: Keys, hosts: Sequence[str], name: str, reached: bool) -> None:
    server = load_identity(issue(keys.folder, "cloud-1", Role.CLOUD, hosts=hosts))
    async with trap(server) as (address, _):
        _, port = host_and_port(address)
        identity = keys.identity("edge-1", Role.EDGE)
        async with open_channel(f"{name}:{port}", identity, Role.CLOUD) as channel:
            if reached:
                await connected(channel, "cloud node", identity)
            else:
                with pytest.raises(PeerUnavailable, match="not for this address"):
                    await connected(channel, "cloud node", identity, 0.5)


async def test_a_certificate_of_an_earlier_version_is_named_and_rotating_it_is_enough(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        names = certificates.names_of_node
        earlier.setattr(certificates, "names_of_node", lambda *rest, serves: names(*rest, serves=False))
        server = keys.identity("edge-1", Role.EDGE)
    async with trap(server) as (address, servicer):
        client = EdgeClient(address, keys.identity("viewer", Role.APP))
        with pytest.raises(PeerUnavailable, match=r"earlier version issued .* `splitvlm keys rotate"):
            await client.connect(0.5)
        rotate(keys.folder, "edge-1")
        await client.connect()
        assert await client.status() is not None
        await client.close()
    assert servicer.got == ["status"]
