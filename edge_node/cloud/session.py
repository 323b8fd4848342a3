"""A session with a cloud node: the handshake, and the sealed stream over which one request after another goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from splitvlm.crypto.handshake import DeviceHandshake, Reply
from splitvlm.crypto.identity import Identity
from splitvlm.crypto.sealing import Opener, Sealer
from splitvlm.crypto.trust import still_trusted
from splitvlm.errors import KeysError, PeerUnavailable, ProtocolError, SplitvlmError
from splitvlm.rpc.compatibility import session_context
from splitvlm.rpc.final_status import FinalStatus
from splitvlm.rpc.limits import CONNECT_TIMEOUT_S, SESSION_AGE_S
from splitvlm.rpc.sealed_stream import SealedStream
from splitvlm.rpc.status import from_rpc, was_cancelled
from splitvlm.rpc.whole_steps import to_its_end
from splitvlm.wire.v1 import data_pb2 as pb
from splitvlm.wire.v1 import data_pb2_grpc

T = TypeVar("T")


class CloudSession:
    """Is one open session. It carries one request at a time (edge_node/cloud/session_answer.py)."""

    def __init__(
        self, call: grpc.aio.StreamStreamCall[pb.Envelope, pb.Envelope], peer: str, keys_context: bytes
    ) -> None:
        self.peer = peer
        self.call = call
        self._final_status = FinalStatus(call)
        self.stream: SealedStream[pb.DeviceFrame, pb.CloudFrame]
        self.last_begin = ("", 0)  # plan and max_new_tokens of the last request: the cloud node knows them
        self.broken = False  # the stream failed, or a request did not end in order
        self.setup_bytes = 0  # both ways,
        self.hello_bytes = 0  # and the part that this device sent,
        self.setup_s = 0.0  # from its first byte to the node's answer, whose work is in it
        self._context = keys_context
        self._require_trusted: Callable[[], None]
        self._opened_s = time.monotonic()

    @classmethod
    async def open(
        cls,
        channel: grpc.aio.Channel,
        peer: str,
        compatibility: pb.Compatibility,
        identity: Identity | None,
        cuts: list[str],
        *,
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> CloudSession:
        """Shakes hands. Raises HandshakeRefused, PeerUnavailable, PermissionRefused, CapacityError."""
        try:
            session = cls(data_pb2_grpc.DataStub(channel).Session(), peer, session_context(compatibility))
            async with asyncio.timeout(timeout_s):
                await session.translated(session._shake_hands(compatibility, identity, cuts))
        except grpc.aio.UsageError as error:
            raise _closed(peer) from error
        except TimeoutError as error:
            session.call.cancel()
            raise PeerUnavailable(
                f"The {peer} did not answer within {timeout_s:.3g} s.",
                advice="Check that it runs, that the address is right, and the link.",
            ) from error
        return session

    @property
    def is_current(self) -> bool:
        """Tells whether another request may use it: it is whole and young, and its node did not end it and is trusted still."""
        if self.broken or self.call.done() or time.monotonic() - self._opened_s > SESSION_AGE_S:
            return False
        try:
            self._require_trusted()
        except KeysError:  # the handshake of the next session says why, unless the certificate was renewed
            return False
        return True

    async def translated(self, step: Awaitable[T]) -> T:
        """Awaits a step that uses this session. Raises a SplitvlmError for whatever gRPC says of the stream's end."""
        try:
            return await step
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self.why_ended() from error
        except asyncio.CancelledError as error:
            if was_cancelled():
                raise
            raise _closed(self.peer) from error

    async def read(self) -> pb.Envelope:
        """Returns the node's next envelope. Raises the error with which the stream ended."""
        envelope = await to_its_end(self.call.read(), self.call.cancel)
        if not isinstance(envelope, pb.Envelope):  # grpc.aio.EOF
            raise await self.why_ended()
        return envelope

    async def why_ended(self) -> SplitvlmError:
        """Returns the error for a stream that ended under its user."""
        error = await self._final_status.error()
        return _closed(self.peer) if error is None else from_rpc(error, self.peer)

    def abandon(self) -> None:
        """Gives the session up where a request did not end in order: the stream's state is unknown.

        The cloud node's side is freed at once.
        """
        self.broken = True
        self.call.cancel()

    async def close(self) -> None:
        """Half-closes the stream, and does not wait for long."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(1.0):
                await self.call.done_writing()
        self.call.cancel()

    async def _shake_hands(self, compatibility: pb.Compatibility, identity: Identity | None, cuts: list[str]) -> None:
        handshake = DeviceHandshake(identity, self._context)
        hello = handshake.hello()
        opening = pb.Envelope(
            open=pb.Open(
                compatibility=compatibility,
                handshake=pb.Handshake(
                    ephemeral_public=hello.ephemeral_public,
                    certificate_der=hello.certificate_der,
                    signature=hello.signature,
                ),
                cuts=cuts,
            )
        )
        began_s = time.perf_counter()
        await self.call.write(opening)
        envelope = await self.read()
        self.setup_s = time.perf_counter() - began_s
        if envelope.WhichOneof("body") != "accepted":
            raise ProtocolError(f"The {self.peer} did not accept the session.")
        offered = envelope.accepted.handshake
        keys = handshake.finish(Reply(offered.ephemeral_public, offered.certificate_der, offered.signature))
        self._require_trusted = still_trusted(offered.certificate_der, identity)
        self.hello_bytes = opening.ByteSize()
        self.setup_bytes = self.hello_bytes + envelope.ByteSize()
        self.stream = SealedStream(self.call.write, Sealer.of_device(keys), Opener.of_device(keys), pb.CloudFrame)


def _closed(peer: str) -> PeerUnavailable:
    return PeerUnavailable(f"The session with the {peer} was closed.", advice="Ask again.")
