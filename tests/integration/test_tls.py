"""What a port accepts before anything of ours is read: TLS 1.3, and a certificate of our authority."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from splitvlm.crypto.identity import Identity, Role
from splitvlm.rpc.channels import connected, open_channel
from splitvlm.rpc.servers import NodeServer
from splitvlm.settings import host_and_port
from tests.nodes import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
async def address(keys: Keys) -> AsyncIterator[str]:
    server = NodeServer(keys.identity("cloud-1", Role.CLOUD), [])
    address = await server.listen("127.0.0.1:0")
    yield address
    await server.drain(0.0)


async def shake_hands(address: str, folder: Path, identity: Identity | None, version: ssl.TLSVersion) -> str | None:
    """The version that was agreed on, once the server has said something: before, it has not yet looked at the certificate."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if identity is not None:
        pair = folder / "pair.pem"
        pair.write_bytes(identity.certificate_pem + identity.private_key_pem)
        context.load_cert_chain(pair)
    host, port = host_and_port(address)
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        assert await reader.read(1), "the server closed"
        agreed = writer.get_extra_info("ssl_object").version()
        return str(agreed)
    finally:
        writer.close()


async def test_tls_1_3_is_spoken_and_1_2_is_not(keys: Keys, address: str, tmp_path: Path) -> None:
    identity = keys.identity("edge-1", Role.EDGE)
    assert await shake_hands(address, tmp_path, identity, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shake_hands(address, tmp_path, identity, ssl.TLSVersion.TLSv1_2)
    async with open_channel(address, identity) as channel:
        await connected(channel, "node")


async def test_without_a_certificate_of_ours_nobody_gets_in(address: str, tmp_path: Path) -> None:
    stranger = Keys(tmp_path / "other").identity("edge-1", Role.EDGE)
    for identity in (None, stranger):
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            await shake_hands(address, tmp_path, identity, ssl.TLSVersion.TLSv1_3)
