"""A session with a cloud node: the handshake, then one request after another over the same sealed stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

import grpc

from edge_node.answering.failure_detector import SILENCE_FACTOR
from edge_node.cloud.answer_check import AnswerCheck
from edge_node.cloud.exchange import Exchange
from edge_node.cloud.payload import Payload
from splitvlm.crypto.handshake import DeviceHandshake, Reply
from splitvlm.crypto.identity import Identity
from splitvlm.crypto.sealing import Opener, Sealer
from splitvlm.crypto.trust import still_trusted
from splitvlm.errors import DeadlineExceeded, KeysError, PeerUnavailable, PrefixEvicted, ProtocolError
from splitvlm.rpc.compatibility import session_context
from splitvlm.rpc.limits import CHUNK_BYTES, CONNECT_TIMEOUT_S, FIRST_TOKEN_TIMEOUT_S, SESSION_AGE_S, TOKEN_TIMEOUT_S
from splitvlm.rpc.sealed_stream import SealedStream
from splitvlm.rpc.status import from_rpc, was_cancelled
from splitvlm.wire.v1 import data_pb2 as pb
from splitvlm.wire.v1 import data_pb2_grpc

SLOWEST_UPLINK_BPS = 8_000  # a link below 1 kB/s is an outage: an upload's deadline is its time at that rate


class CloudSession:
    """One open session. One request at a time; `broken` once the stream failed or a request did not end in order."""

    def __init__(
        self, call: grpc.aio.StreamStreamCall[pb.Envelope, pb.Envelope], peer: str, keys_context: bytes
    ) -> None:
        self._call = call
        self._peer = peer
        self._context = keys_context
        self._said = ("", 0)  # plan and max_new_tokens of the last request: the cloud knows them
        self._stream: SealedStream[pb.DeviceFrame, pb.CloudFrame]
        self._require_trusted: Callable[[], None]
        self._began: list[tuple[int, float]] = []  # of this request's parts: bytes sent before, time.perf_counter
        self.broken = False
        self.opened_s = time.monotonic()
        self.setup_bytes = 0  # both ways,
        self.hello_bytes = 0  # and the part that this device sent,
        self.setup_s = 0.0  # from its first byte to the node's answer, whose work is in it

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
        """Shake hands. Raises HandshakeRefused, PeerUnavailable, PermissionRefused, CapacityError."""
        try:
            session = cls(data_pb2_grpc.DataStub(channel).Session(), peer, session_context(compatibility))
            async with asyncio.timeout(timeout_s):
                await session._shake_hands(compatibility, identity, cuts)
        except grpc.aio.UsageError as error:  # the channel is closed
            raise _closed(peer) from error
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, peer) from error
        except asyncio.InvalidStateError as error:
            raise await session._why() from error
        except asyncio.CancelledError as error:
            if was_cancelled():
                raise
            raise _closed(peer) from error
        except TimeoutError as error:
            session._call.cancel()
            raise PeerUnavailable(
                f"The {peer} did not answer within {timeout_s:.3g} s.",
                advice="Check that it runs, that the address is right, and the link.",
            ) from error
        return session

    async def answer(self, payload: Payload, exchange: Exchange) -> AsyncGenerator[int, None]:
        """Send the payload, yield the tokens as they come, fill in the exchange. A caller that stops early cancels."""
        sent, received = self._stream.bytes_sent, self._stream.bytes_received
        ended = False
        check, self._began = AnswerCheck(payload, self._peer), []
        try:
            handed_over: asyncio.Queue[None] = asyncio.Queue()
            upload = asyncio.create_task(self._upload(payload, exchange, handed_over))
            upload.add_done_callback(lambda _: handed_over.put_nowait(None))  # also where it fails before its end
            try:
                for left in reversed(range(payload.segments.count)):
                    await handed_over.get()
                    if upload.done():
                        await upload
                    await self._await_receipt(payload, check, exchange, left)
                await upload
                async for token in self._tokens(payload, check, exchange):
                    yield token
                ended = True
            except PrefixEvicted:
                ended = upload.done()  # the session goes on
                raise
            finally:
                upload.cancel()
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self._peer) from error
        except asyncio.InvalidStateError as error:
            raise await self._why() from error
        except asyncio.CancelledError as error:
            if was_cancelled():
                raise
            raise _closed(self._peer) from error
        finally:
            exchange.bytes_sent += self._stream.bytes_sent - sent
            exchange.bytes_received += self._stream.bytes_received - received
            if not ended:
                await self._abandon()

    @property
    def is_current(self) -> bool:
        """Whether it may take another request: whole, not too old, not ended by the node, whose certificate counts still."""
        if self.broken or self._call.done() or time.monotonic() - self.opened_s > SESSION_AGE_S:
            return False
        try:
            self._require_trusted()
        except KeysError:  # the handshake of the next session says why, unless the certificate was renewed
            return False
        return True

    async def close(self) -> None:
        """Half-close, and do not wait for long."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(1.0):
                await self._call.done_writing()
        self._call.cancel()

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
        await self._call.write(opening)
        envelope = await self._read()
        self.setup_s = time.perf_counter() - began_s
        if envelope.WhichOneof("body") != "accepted":
            raise ProtocolError(f"The {self._peer} did not accept the session.")
        offered = envelope.accepted.handshake
        keys = handshake.finish(Reply(offered.ephemeral_public, offered.certificate_der, offered.signature))
        self._require_trusted = still_trusted(offered.certificate_der, identity)
        self.hello_bytes = opening.ByteSize()
        self.setup_bytes = self.hello_bytes + envelope.ByteSize()
        self._stream = SealedStream(self._call.write, Sealer.of_device(keys), Opener.of_device(keys), pb.CloudFrame)

    async def _upload(self, payload: Payload, exchange: Exchange, handed_over: asyncio.Queue[None]) -> None:
        """All parts as they are made."""
        segments = payload.segments
        for place in range(segments.count):
            data = await segments.part(place)
            exchange.hand_over(len(data))
            self._began.append((self._stream.bytes_sent, time.perf_counter()))
            handed_over.put_nowait(None)
            if place:
                size = len(data) if len(data) > CHUNK_BYTES else 0
                await self._stream.send(
                    pb.DeviceFrame(segment=pb.Segment(payload_bytes=size, first=data[:CHUNK_BYTES]))
                )
            else:
                await self._begin(payload, data)
            for start in range(CHUNK_BYTES, len(data), CHUNK_BYTES):
                await self._stream.send(pb.DeviceFrame(chunk=data[start : start + CHUNK_BYTES]))

    async def _begin(self, payload: Payload, data: bytes) -> None:
        plan, (last_plan, last_max_new_tokens) = str(payload.plan), self._said
        self._said = plan, payload.max_new_tokens
        await self._stream.send(
            pb.DeviceFrame(
                begin=pb.Begin(
                    plan="" if plan == last_plan else plan,
                    payload_bytes=len(data) if len(data) > CHUNK_BYTES else 0,
                    max_new_tokens=0 if payload.max_new_tokens == last_max_new_tokens else payload.max_new_tokens,
                    first=data[:CHUNK_BYTES],
                    question=payload.question,
                    picture=payload.picture,
                    prefix_cached=payload.prefix_cached,
                    resume_token_ids=payload.resume_token_ids,
                    segments=payload.segments.count if payload.segments.count > 1 else 0,
                )
            )
        )

    async def _await_receipt(self, payload: Payload, check: AnswerCheck, exchange: Exchange, left: int) -> None:
        """The receipt of the oldest part under way, after which `left` parts are to come."""
        exchange.heard_s = time.perf_counter()
        deadline_s = CONNECT_TIMEOUT_S + 8 * exchange.upload_bytes / SLOWEST_UPLINK_BPS
        if payload.silence_timeout_s is not None:
            deadline_s = payload.silence_timeout_s + SILENCE_FACTOR * payload.upload_s * exchange.segments_under_way
        frame = await self._receive(check, deadline_s, exchange)
        if frame.WhichOneof("body") != "receipt":
            raise ProtocolError(f"The {self._peer} answered before it had the whole request.")
        began = self._began[payload.segments.count - left - 1 :]
        until_bytes = began[1][0] if len(began) > 1 else self._stream.bytes_sent
        sent_bytes, elapsed_s = until_bytes - began[0][0], time.perf_counter() - began[0][1]
        exchange.received(check.receipt(frame.receipt, sent_bytes, elapsed_s), last=not left)

    async def _tokens(self, payload: Payload, check: AnswerCheck, exchange: Exchange) -> AsyncGenerator[int, None]:
        timeout_s = payload.silence_timeout_s or FIRST_TOKEN_TIMEOUT_S
        for place, token_id in enumerate(payload.resume_token_ids):
            await self._step(payload, place, token_id)
        place = len(payload.resume_token_ids)
        while True:
            asked_s = time.perf_counter()
            frame = await self._receive(check, timeout_s, exchange)
            exchange.longest_silence_s = max(exchange.longest_silence_s, time.perf_counter() - asked_s)
            timeout_s = payload.silence_timeout_s or TOKEN_TIMEOUT_S
            match frame.WhichOneof("body"):
                case "token":
                    token_id = check.token(frame.token)
                    yield token_id
                    await self._step(payload, place, token_id)
                    place += 1
                case "end":
                    exchange.end = check.end(frame.end, time.perf_counter() - self._began[0][1])
                    return
                case _:
                    raise ProtocolError(f"The {self._peer} sent a frame that has no place in an answer.")

    async def _step(self, payload: Payload, place: int, token_id: int) -> None:
        if payload.step is not None:
            await self._stream.send(pb.DeviceFrame(step=await payload.step(place, token_id)))

    async def _receive(self, check: AnswerCheck, timeout_s: float, exchange: Exchange) -> pb.CloudFrame:
        try:
            async with asyncio.timeout(timeout_s):
                envelope = await self._read()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The {self._peer} did not answer within {timeout_s:.3g} s.", advice="Look at its load and at the link."
            ) from error
        exchange.heard_s = time.perf_counter()
        frame = self._stream.open(envelope)
        if frame.WhichOneof("body") == "failure":
            raise check.failure(frame.failure)
        return frame

    async def _read(self) -> pb.Envelope:
        envelope = await self._call.read()
        if not isinstance(envelope, pb.Envelope):  # grpc.aio.EOF
            raise await self._why()
        return envelope

    async def _abandon(self) -> None:
        """The request did not end: the stream's state is unknown, so it is given up. That frees the cloud's side at once."""
        self.broken = True
        self._call.cancel()

    async def _why(self) -> Exception:
        """The error for a stream that ended under us."""
        code, details = await self._call.code(), await self._call.details()
        trailers = await self._call.trailing_metadata()
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers or grpc.aio.Metadata(), details=details)
        if code is grpc.StatusCode.OK:
            return _closed(self._peer)
        return from_rpc(error, self._peer)


def _closed(peer: str) -> PeerUnavailable:
    return PeerUnavailable(f"The session with the {peer} was closed.", advice="Ask again.")
