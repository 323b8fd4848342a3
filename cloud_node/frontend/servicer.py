"""The data plane's public service: authorises a device, then relays its session's envelopes, unread, to a worker.

What a front end sees of a session: the connection's certificate, the number, sizes and times of envelopes. It has no key.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Any

import grpc

from cloud_node.frontend.sessions import OpenSessions
from cloud_node.pools.protocol import Pool
from cloud_node.settings import CloudLimits
from splitvlm.crypto.identity import Role
from splitvlm.errors import DeadlineExceeded, SplitvlmError
from splitvlm.rpc.authorization import require_role
from splitvlm.rpc.status import abort, unary
from splitvlm.rpc.whole_steps import to_its_end
from splitvlm.wire.v1 import data_pb2 as pb

_log = logging.getLogger("splitvlm.cloud")

SERVICE = pb.DESCRIPTOR.services_by_name["Data"].full_name
HANDSHAKE_TIMEOUT_S = 10.0  # a peer that connects and says nothing holds a slot no longer than this

Context = grpc.aio.ServicerContext[bytes, bytes]


class DataServicer:
    """Serves sessions of devices. `refused` counts those that were ended by an error, by its code."""

    def __init__(self, pool: Pool, limits: CloudLimits, *, plaintext: bool) -> None:
        """Takes devices without a certificate where `plaintext` is true."""
        self._pool = pool
        self._limits = limits
        self._plaintext = plaintext
        self._sessions = OpenSessions(limits)
        self.refused: Counter[str] = Counter()

    @property
    def active(self) -> Counter[str]:
        """Returns the number of open sessions by device."""
        return self._sessions.by_device

    def use(self, limits: CloudLimits) -> None:
        """Takes other limits, for sessions that open from now on."""
        self._limits = limits
        self._sessions.use(limits)
        self._pool.use(limits)

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns the service for gRPC. Envelopes stay bytes: without serialisers gRPC hands them over as they came."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Session": grpc.stream_stream_rpc_method_handler(self.session),
                "Probe": grpc.unary_unary_rpc_method_handler(
                    self.probe, pb.ProbeRequest.FromString, pb.ProbeReply.SerializeToString
                ),
            },
        )

    @unary
    async def session(self, _requests: Any, context: Context) -> None:
        """Relays one session. Ends the call with the status of what was raised."""
        try:
            device = require_role(context, Role.EDGE, plaintext=self._plaintext) or "plaintext"
            with self._sessions.opened(device):
                await self._relay(device, context)
        except SplitvlmError as error:
            self.refused[error.code] += 1
            await abort(context, error)

    @unary
    async def probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeReply:
        """Measures the link: the payload is thrown away."""
        arrived_s = time.perf_counter()
        require_role(context, Role.EDGE, plaintext=self._plaintext)
        return pb.ProbeReply(server_us=int(1e6 * (time.perf_counter() - arrived_s)))

    async def _relay(self, device: str, context: Context) -> None:
        stream = _Stream(context, self._limits.idle_session_s)
        try:
            await stream.read_first()
            await self._pool.worker_for(device).serve(device, stream)
        except SplitvlmError as error:
            _log.warning("session of %s ended: %s", device, error.sentence, extra={"refused": self.refused.total() + 1})
            raise


class _Stream:
    """Adapts a call of gRPC to an `EnvelopeStream`. Its first envelope is read ahead: silence costs no worker anything."""

    def __init__(self, context: Context, write_timeout_s: float) -> None:
        self._context = context
        self._write_timeout_s = write_timeout_s
        self._first: list[bytes | None] = []

    async def read_first(self) -> None:
        """Raises DeadlineExceeded where the device does not open its session in time."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                self._first.append(await self.read())
        except TimeoutError as error:
            raise DeadlineExceeded("The device did not open its session in time.") from error

    async def read(self) -> bytes | None:
        if self._first:
            return self._first.pop()
        envelope = await to_its_end(self._context.read())
        return envelope if isinstance(envelope, bytes) else None  # grpc.aio.EOF: the device closed

    async def write(self, envelope: bytes) -> None:
        async with asyncio.timeout(self._write_timeout_s):  # of a device that reads
            await self._context.write(envelope)
