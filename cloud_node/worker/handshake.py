"""Opens a session: the device's first envelope, the cloud's answer, and the sealed stream between them from then on."""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError

from cloud_node.pools.protocol import EnvelopeStream
from splitvlm.crypto.handshake import CloudHandshake, Hello
from splitvlm.crypto.identity import Identity
from splitvlm.crypto.sealing import Opener, Sealer
from splitvlm.errors import ProtocolError
from splitvlm.rpc.compatibility import agreed_variants, check_compatibility, session_context
from splitvlm.rpc.sealed_stream import SealedStream
from splitvlm.wire.v1.data_pb2 import Accepted, CloudFrame, Compatibility, DeviceFrame, Envelope, Handshake


class OpenedSession(NamedTuple):
    """Holds an open session."""

    stream: SealedStream[CloudFrame, DeviceFrame]
    certificate_der: bytes  # of the device that sealed it; empty in plaintext
    variants: frozenset[str]  # forms of the device's part that both sides have


async def shake_hands(stream: EnvelopeStream, compatibility: Compatibility, identity: Identity | None) -> OpenedSession:
    """Reads the first envelope and answers it. Raises ProtocolError, HandshakeRefused and errors of keys."""
    envelope = await read_envelope(stream)
    if envelope is None or envelope.WhichOneof("body") != "open":
        raise ProtocolError("A session begins with the message `open`.")
    theirs = envelope.open.compatibility
    check_compatibility(theirs, compatibility)
    offered = envelope.open.handshake
    hello = Hello(offered.ephemeral_public, offered.certificate_der, offered.signature)
    reply, keys = CloudHandshake(identity, session_context(theirs)).accept(hello)

    async def write(envelope: Envelope) -> None:
        await stream.write(envelope.SerializeToString())

    answer = Handshake(
        ephemeral_public=reply.ephemeral_public, certificate_der=reply.certificate_der, signature=reply.signature
    )
    await write(Envelope(accepted=Accepted(handshake=answer)))
    sealed: SealedStream[CloudFrame, DeviceFrame] = SealedStream(
        write, Sealer.of_cloud(keys), Opener.of_cloud(keys), DeviceFrame
    )
    return OpenedSession(sealed, hello.certificate_der, agreed_variants(theirs, compatibility))


async def read_envelope(stream: EnvelopeStream) -> Envelope | None:
    """Returns the next envelope; None once the device has closed. Raises ProtocolError for bytes that are none."""
    data = await stream.read()
    if data is None:
        return None
    try:
        return Envelope.FromString(data)
    except DecodeError as error:
        raise ProtocolError("The peer sent bytes that are no envelope.") from error
