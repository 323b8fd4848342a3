"""The data plane's service: authorises, shakes hands, then hands the stream to a session."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

from cloud_node.admission import FULL_RETRY_S, Admission
from cloud_node.prefix_cache import DevicePrefixCache, PrefixCache
from cloud_node.session import Session
from cloud_node.settings import CloudLimits
from cloud_node.worker import Worker
from splitvlm.codec.codec import Codec
from splitvlm.crypto.handshake import CloudHandshake, Hello
from splitvlm.crypto.identity import Identity, Role, peer_identity
from splitvlm.crypto.sealing import Opener, Sealer
from splitvlm.crypto.trust import still_trusted
from splitvlm.errors import CapacityError, DeadlineExceeded, ProtocolError, SplitvlmError
from splitvlm.model.parts import CloudPart
from splitvlm.rpc.authorization import require_role
from splitvlm.rpc.compatibility import check_compatibility, session_context
from splitvlm.rpc.limits import MAX_SESSION_AGE_S
from splitvlm.rpc.sealed_stream import SealedStream
from splitvlm.rpc.status import abort, unary
from splitvlm.wire.v1 import data_pb2 as pb
from splitvlm.wire.v1 import data_pb2_grpc

_log = logging.getLogger("splitvlm.cloud")

HANDSHAKE_TIMEOUT_S = 10.0  # a peer that connects and says nothing holds a slot no longer than this

Context = grpc.aio.ServicerContext[pb.Envelope, pb.Envelope]


class DataServicer(data_pb2_grpc.DataServicer):
    """Serves sessions of devices. `active` counts open sessions by device, `refused` by error those that were ended."""

    def __init__(
        self,
        part: CloudPart,
        codec: Codec,
        worker: Worker,
        compatibility: pb.Compatibility,
        identity: Identity | None,
        limits: CloudLimits,
    ) -> None:
        self._part = part
        self._codec = codec
        self._worker = worker
        self._compatibility = compatibility
        self._identity = identity
        self._limits = limits
        self.memory = PrefixCache(limits.remembered_bytes, limits.remembered_s)
        self.admission = Admission(limits, worker)
        self.active: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def use(self, limits: CloudLimits) -> None:
        """Other limits, for sessions that open from now on."""
        self._limits = limits
        self.memory.use(limits.remembered_bytes, limits.remembered_s)
        self.admission.use(limits)

    @unary
    async def Session(self, request_iterator: Any, context: Context) -> None:  # gRPC's own naming
        try:
            device = require_role(context, Role.EDGE, plaintext=self._identity is None) or "plaintext"
            self._admit(device)
        except SplitvlmError as error:
            self.refused[error.code] += 1
            await abort(context, error)
        self.active[device] += 1
        try:
            await self._serve(device, context)
        except SplitvlmError as error:
            self.refused[error.code] += 1
            _log.warning("session of %s ended: %s", device, error.sentence, extra={"refused": self.refused.total()})
            await abort(context, error)
        finally:
            self.active[device] -= 1
            if not self.active[device]:
                del self.active[device]

    @unary
    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeReply:
        arrived_s = time.perf_counter()
        require_role(context, Role.EDGE, plaintext=self._identity is None)
        return pb.ProbeReply(server_us=int(1e6 * (time.perf_counter() - arrived_s)))

    def _admit(self, device: str) -> None:
        if self.active.total() >= self._limits.max_sessions:
            raise CapacityError(
                "This cloud node has no free session.",
                advice="Try again in a few seconds.",
                retry_after_s=FULL_RETRY_S,
            )
        if self.active[device] >= self._limits.max_sessions_per_device:
            raise CapacityError(
                f"{device} has {self.active[device]} sessions open, which is its limit.",
                advice="Close one first.",
                retry_after_s=FULL_RETRY_S,
            )

    async def _serve(self, device: str, context: Context) -> None:
        stream, certificate_der = await self._shake_hands(context)
        owner = peer_identity(certificate_der)[0] if certificate_der else device  # the channel's may be a gateway
        prefix_cache, current = DevicePrefixCache(self.memory, owner), self._requirement(certificate_der)
        session = Session(
            stream, self._part, self._codec, self._worker, self._limits, prefix_cache, self.admission, current
        )
        _log.info("session open", extra={"device": device})
        await session.run(lambda: _read(context))
        _log.info("session closed", extra={"device": device, "requests": session.requests})

    def _requirement(self, certificate_der: bytes) -> Callable[[], None]:
        """What holds for each further request: the device's certificate counts, and the session is not too old."""
        opened_s, require_trusted = time.monotonic(), still_trusted(certificate_der, self._identity)

        def require() -> None:
            if time.monotonic() - opened_s > MAX_SESSION_AGE_S:
                raise DeadlineExceeded("The session is too old for another request.", advice="Open a new one.")
            require_trusted()

        return require

    async def _shake_hands(self, context: Context) -> tuple[SealedStream[pb.CloudFrame, pb.DeviceFrame], bytes]:
        """The sealed stream, and the certificate of the device that sealed it; empty in plaintext."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                envelope = await context.read()
        except TimeoutError as error:
            raise DeadlineExceeded("The device did not open its session in time.") from error
        if not isinstance(envelope, pb.Envelope) or envelope.WhichOneof("body") != "open":
            raise ProtocolError("A session begins with the message `open`.")
        check_compatibility(envelope.open.compatibility, self._compatibility)
        offered = envelope.open.handshake
        hello = Hello(offered.ephemeral_public, offered.certificate_der, offered.signature)
        session_ctx = session_context(self._compatibility)
        reply, keys = CloudHandshake(self._identity, session_ctx).accept(hello)
        await context.write(
            pb.Envelope(
                accepted=pb.Accepted(
                    handshake=pb.Handshake(
                        ephemeral_public=reply.ephemeral_public,
                        certificate_der=reply.certificate_der,
                        signature=reply.signature,
                    )
                )
            )
        )

        async def write(envelope: pb.Envelope) -> None:
            async with asyncio.timeout(self._limits.idle_session_s):  # of a device that reads
                await context.write(envelope)

        sealer, opener = Sealer.of_cloud(keys), Opener.of_cloud(keys)
        return SealedStream(write, sealer, opener, pb.DeviceFrame), hello.certificate_der


async def _read(context: Context) -> pb.Envelope | None:
    envelope = await context.read()
    return envelope if isinstance(envelope, pb.Envelope) else None  # grpc.aio.EOF: the device closed
