"""Client channels: mutual TLS by default, plaintext on loopback only and only when asked for.

A client says which role it means to reach, and TLS checks it together with the host: the name that the server's certificate
must hold is `<host>.<role>.splitvlm.internal` (splitvlm.crypto.certificates). A valid certificate of another role, or of a node
that is reached elsewhere, ends the connection before anything is sent.
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from splitvlm.crypto.certificates import server_name
from splitvlm.crypto.identity import Identity, Role
from splitvlm.errors import PeerUnavailable
from splitvlm.rpc.addresses import parsed, require_loopback
from splitvlm.rpc.limits import CONNECT_TIMEOUT_S, MAX_MESSAGE_BYTES, client_options
from splitvlm.rpc.status import tls_failure

EXPLAIN_TIMEOUT_S = 1.0


def open_channel(
    address: str,
    identity: Identity | None,
    peer_role: Role,
    *,
    peer_name: str | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> grpc.aio.Channel:
    """Returns a lazy channel to the node of that role at `host:port`; `peer_name` is the one node that may answer there.

    Without an identity it is plaintext: only loopback addresses are taken then. Raises UsageError, ConfigError.
    """
    host, target = parsed(address)
    options = client_options(max_message_bytes)
    if identity is None:
        require_loopback(address, "the peer's address")
        return grpc.aio.insecure_channel(target, options=options)
    shown = identity.newest()  # a channel shows the same certificate as long as it lives
    credentials = grpc.ssl_channel_credentials(shown.authority_pem, shown.private_key_pem, shown.certificate_pem)
    name = ("grpc.ssl_target_name_override", server_name(peer_role, peer_name or host))
    return grpc.aio.secure_channel(target, credentials, options=[*options, name])


async def connected(
    channel: grpc.aio.Channel, peer: str, identity: Identity | None, timeout_s: float = CONNECT_TIMEOUT_S
) -> None:
    """Waits until the channel is up, TLS included. Raises PeerUnavailable, with the cause where it is known."""
    try:
        async with asyncio.timeout(timeout_s):
            await channel.channel_ready()
    except TimeoutError as error:
        if failed := own_certificate_expired(identity, peer) or await _tls_failure(channel, peer):
            raise failed from error
        raise PeerUnavailable(
            f"The {peer} could not be reached within {timeout_s:.0f} s.", advice="Check that it runs, and the address."
        ) from error


def own_certificate_expired(identity: Identity | None, peer: str) -> PeerUnavailable | None:
    """Returns the error for whoever dials with a certificate that has expired: the peer closes the connection and does not say
    why.
    """
    if identity is None or not identity.newest().has_expired():
        return None
    return PeerUnavailable(
        f"The {peer} cannot be reached: the certificate of {identity.node} has expired, which is this node's own.",
        advice=f"Make another with `splitvlm keys rotate {identity.node}` and copy its files here: they count at once.",
    )


async def _tls_failure(channel: grpc.aio.Channel, peer: str) -> PeerUnavailable | None:
    """Returns why a channel has no connection, as only a call is told."""
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=EXPLAIN_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return tls_failure(error.details() or "", peer)
    return None
