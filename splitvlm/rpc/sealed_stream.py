"""Sealed frames on one stream: serialise, seal, count, and the reverse. The only place where frames become envelopes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from splitvlm.crypto.sealing import Opener, Sealer
from splitvlm.errors import ProtocolError
from splitvlm.rpc.limits import MAX_FRAME_BYTES
from splitvlm.rpc.whole_steps import to_its_end
from splitvlm.wire.v1.data_pb2 import Envelope

Out = TypeVar("Out", bound=Message)
In = TypeVar("In", bound=Message)


class SealedStream(Generic[Out, In]):
    """Reads and writes one side of an open session. Bytes are the serialised envelopes', as DESIGN.md's law 2 counts them."""

    def __init__(
        self, write: Callable[[Envelope], Awaitable[None]], sealer: Sealer, opener: Opener, incoming: type[In]
    ) -> None:
        self._write = write
        self._sealer = sealer
        self._opener = opener
        self._incoming = incoming
        self._turn = asyncio.Lock()  # frames must be written in the order in which they were counted
        self.bytes_sent = 0
        self.bytes_received = 0

    async def send(self, frame: Out) -> None:
        """Seals the frame and writes it. A caller that is cancelled leaves a whole frame behind: the peer counts it, too."""
        await to_its_end(self._send(frame))

    async def _send(self, frame: Out) -> None:
        async with self._turn:
            envelope = Envelope(sealed=self._sealer.seal(frame.SerializeToString()))
            self.bytes_sent += envelope.ByteSize()
            await self._write(envelope)

    def open(self, envelope: Envelope) -> In:
        """Returns the frame in an envelope. Raises ProtocolError on anything that is not the peer's next frame."""
        if envelope.WhichOneof("body") != "sealed" or len(envelope.sealed) > MAX_FRAME_BYTES:
            raise ProtocolError("The peer sent a message that has no place on an open session.")
        self.bytes_received += envelope.ByteSize()
        try:
            return self._incoming.FromString(self._opener.open(envelope.sealed))
        except DecodeError as error:
            raise ProtocolError("The peer sent a frame that is no message of this protocol.") from error
