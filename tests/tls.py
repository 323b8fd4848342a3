"""TLS from a client of Python's own, for what gRPC's client never tries."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from splitvlm.crypto.identity import Identity
from splitvlm.host_port import host_and_port


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
