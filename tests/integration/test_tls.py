"""What a port accepts before anything of ours is read: TLS 1.3, and a certificate of our authority."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from splitvlm.crypto.authority import issue
from splitvlm.crypto.identity import Role
from splitvlm.rpc.channels import connected, open_channel
from splitvlm.rpc.servers import NodeServer
from tests.nodes import Keys
from tests.tls import shake_hands


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
async def address(keys: Keys) -> AsyncIterator[str]:
    server = NodeServer(keys.identity("cloud-1", Role.CLOUD), [])
    address = await server.listen("127.0.0.1:0")
    yield address
    await server.drain(0.0)


async def test_tls_1_3_is_spoken_and_1_2_is_not(keys: Keys, address: str, tmp_path: Path) -> None:
    identity = keys.identity("edge-1", Role.EDGE)
    assert await shake_hands(address, tmp_path, identity, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shake_hands(address, tmp_path, identity, ssl.TLSVersion.TLSv1_2)
    async with open_channel(address, identity, Role.CLOUD) as channel:
        await connected(channel, "node", identity)


async def test_without_a_certificate_of_ours_nobody_gets_in(address: str, tmp_path: Path) -> None:
    stranger = Keys(tmp_path / "other").identity("edge-1", Role.EDGE)
    for identity in (None, stranger):
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            await shake_hands(address, tmp_path, identity, ssl.TLSVersion.TLSv1_3)


@pytest.mark.parametrize(("first", "listens"), [("import splitvlm, grpc", True), ("import grpc, splitvlm", False)])
def test_a_process_that_would_take_1_2_does_not_listen(tmp_path: Path, first: str, listens: bool) -> None:
    """In a process of its own: gRPC reads its cipher suites once."""
    folder = issue(Keys(tmp_path / "keys").folder, "cloud-1", Role.CLOUD)
    program = f"""
{first}
import asyncio
from pathlib import Path
from splitvlm.crypto.identity import load_identity
from splitvlm.errors import ConfigError
from splitvlm.rpc.servers import NodeServer
async def main():
    server = NodeServer(load_identity(Path({str(folder)!r})), [])
    try:
        await server.listen("127.0.0.1:0")
    except ConfigError:
        print("refused")
        return
    print("listens")
    await server.drain(0)
asyncio.run(main())
"""
    environment = {key: value for key, value in os.environ.items() if key != "GRPC_SSL_CIPHER_SUITES"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.strip() == ("listens" if listens else "refused"), done.stderr
