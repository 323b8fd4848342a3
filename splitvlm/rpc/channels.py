"""Client channels: mutual TLS by default, plaintext on loopback only and only when asked for."""

from __future__ import annotations

import asyncio

import grpc

from splitvlm.crypto.identity import Identity
from splitvlm.errors import ConfigError, PeerUnavailable
from splitvlm.rpc.limits import CONNECT_TIMEOUT_S, MAX_MESSAGE_BYTES, client_options

_LOOPBACK = ("127.", "localhost:", "[::1]:")


def require_loopback(address: str, key: str) -> None:
    """Raises ConfigError where plaintext would leave the machine. `key` names the setting."""
    if not address.startswith(_LOOPBACK):
        raise ConfigError(
            f"{key} is {address}, which is not loopback, so plaintext is refused.",
            advice="Set security.keys (made by `splitvlm keys issue`) and leave security.plaintext false.",
        )


def open_channel(
    address: str, identity: Identity | None, *, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> grpc.aio.Channel:
    """A lazy channel to `host:port`. Without an identity it is plaintext: only loopback addresses are taken then."""
    options = client_options(max_message_bytes)
    if identity is None:
        require_loopback(address, "the peer's address")
        return grpc.aio.insecure_channel(address, options=options)
    shown = identity.newest()  # a channel shows the same certificate as long as it lives
    credentials = grpc.ssl_channel_credentials(shown.authority_pem, shown.private_key_pem, shown.certificate_pem)
    return grpc.aio.secure_channel(address, credentials, options=options)


async def connected(channel: grpc.aio.Channel, peer: str, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
    """Wait until the channel is up, TLS included. Raises PeerUnavailable after `timeout_s`."""
    try:
        await asyncio.wait_for(channel.channel_ready(), timeout_s)
    except TimeoutError as error:
        raise PeerUnavailable(
            f"The {peer} could not be reached within {timeout_s:.0f} s.",
            advice="Check that it runs, the address, and that both nodes have keys of one authority (`splitvlm keys show`).",
        ) from error
