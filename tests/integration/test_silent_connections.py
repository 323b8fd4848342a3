"""Connections that show no certificate hold a port for seconds, and only so many of them."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest

from splitvlm.crypto.identity import Identity, Role
from splitvlm.host_port import host_and_port
from splitvlm.rpc.channels import connected, open_channel
from splitvlm.rpc.limits import HANDSHAKE_TIMEOUT_MS, max_connections, server_options
from splitvlm.rpc.servers import NodeServer
from tests.nodes import Keys, until

CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # the beginning of one


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


async def listening(identity: Identity) -> tuple[NodeServer, str]:
    server = NodeServer(identity, [])
    return server, await server.listen("127.0.0.1:0")


@pytest.mark.parametrize("said", [b"", CLIENT_HELLO])
async def test_a_connection_without_a_handshake_is_closed(
    keys: Keys, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitvlm.rpc.limits.HANDSHAKE_TIMEOUT_MS", 300)
    server, address = await listening(keys.identity("cloud-1", Role.CLOUD))
    reader, writer = await asyncio.open_connection(*host_and_port(address))
    writer.write(said)
    assert await asyncio.wait_for(reader.read(), 30) is not None
    assert reader.at_eof()
    writer.close()
    await server.drain(0.0)


async def test_more_connections_than_a_port_takes_are_closed_at_once(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitvlm.rpc.limits.HANDSHAKE_TIMEOUT_MS", 120_000)
    monkeypatch.setattr("splitvlm.rpc.limits.max_connections", lambda: 4)
    server, address = await listening(keys.identity("cloud-1", Role.CLOUD))
    silent = [await asyncio.open_connection(*host_and_port(address)) for _ in range(20)]
    ends = [asyncio.create_task(reader.read()) for reader, _ in silent]
    await until(lambda: sum(end.done() for end in ends) == 16, 30.0)
    for _, writer in silent:
        writer.close()
    identity = keys.identity("edge-1", Role.EDGE)
    async with open_channel(address, identity, Role.CLOUD) as channel:
        await connected(channel, "cloud node", identity, 30.0)
    await asyncio.gather(*ends, return_exceptions=True)
    await server.drain(0.0)


@pytest.mark.parametrize(("files", "connections"), [(1_024, 512), (resource.RLIM_INFINITY, 2**19)])
def test_connections_take_half_of_what_the_process_may_open(
    files: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert max_connections() == connections


def test_what_a_port_takes_leaves_descriptors_for_the_rest() -> None:
    options = dict(server_options())
    assert options["grpc.server_handshake_timeout_ms"] == HANDSHAKE_TIMEOUT_MS <= 10_000
    assert 0 < options["grpc.max_allowed_incoming_connections"] == max_connections()
