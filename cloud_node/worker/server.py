"""A worker's own port, inside the cluster: only the front end may call it, which shows the very certificate of the worker."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from cloud_node.pools.protocol import Worker
from cloud_node.pools.relay import DEVICE_KEY, SERVICE
from splitvlm.crypto.identity import Identity, Role
from splitvlm.errors import PermissionRefused, ProtocolError
from splitvlm.rpc.authorization import require_role
from splitvlm.rpc.status import unary
from splitvlm.rpc.whole_steps import to_its_end

WRITE_TIMEOUT_S = 600.0  # the front end watches how long a device does not read; this is for a front end that hangs

Context = grpc.aio.ServicerContext[bytes, bytes]


class WorkerServicer:
    """Serves sessions that a front end relays."""

    def __init__(self, worker: Worker, identity: Identity | None) -> None:
        """Takes this cloud node's `identity`; None takes callers without a certificate."""
        self._worker = worker
        self._identity = identity
        self.num_sessions = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns the service for gRPC. Envelopes stay bytes."""
        return grpc.method_handlers_generic_handler(
            SERVICE, {"Session": grpc.stream_stream_rpc_method_handler(self.session)}
        )

    @unary
    async def session(self, _requests: Any, context: Context) -> None:
        """Serves one session. Ends the call with the status of what was raised."""
        self._require_front_end(context)
        device = dict(context.invocation_metadata() or ()).get(DEVICE_KEY)
        if not isinstance(device, str):
            raise ProtocolError("A relayed session names its device.")
        self.num_sessions += 1
        try:
            await self._worker.serve(device, _Stream(context))
        finally:
            self.num_sessions -= 1

    def _require_front_end(self, context: Context) -> None:
        """Raises PermissionRefused for all but this cloud node: whoever relays says which device a session is of."""
        caller = require_role(context, Role.CLOUD, plaintext=self._identity is None)
        if self._identity is not None and caller != self._identity.node:
            raise PermissionRefused(f"This port is for the cloud node {self._identity.node}, not for {caller}.")


class _Stream:
    """Adapts a relayed call to an `EnvelopeStream`."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        envelope = await to_its_end(self._context.read())
        return envelope if isinstance(envelope, bytes) else None  # grpc.aio.EOF

    async def write(self, envelope: bytes) -> None:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await self._context.write(envelope)
