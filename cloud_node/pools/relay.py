"""A worker in another process, as the front end sees it: a session's envelopes are relayed to it, as bytes, over mutual TLS.

Both ends show the cloud node's own certificate. The name of the device that holds the connection goes along as metadata;
envelopes are not opened here, for the keys of a session are the worker's.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import grpc

from cloud_node.pools.protocol import EnvelopeStream
from splitvlm.crypto.identity import Identity, Role
from splitvlm.errors import PeerUnavailable
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.final_status import FinalStatus
from splitvlm.rpc.status import from_rpc, was_cancelled
from splitvlm.rpc.whole_steps import to_its_end

SERVICE = "splitvlm.cloud.Worker"
SESSION = f"/{SERVICE}/Session"
DEVICE_KEY = "splitvlm-device"


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Holds what a worker in another process says of itself."""

    address: str  # host:port for the front end
    process_id: int
    num_sessions: int
    queue_s: float  # that its work of the last seconds waited


class RemoteWorker:
    """Implements `Worker` (protocol.py) for one worker at `address`."""

    def __init__(self, address: str, identity: Identity | None) -> None:
        self.address = address
        self.num_sessions = 0
        node = identity.node if identity is not None else None
        self._channel = open_channel(address, identity, Role.CLOUD, peer_name=node)  # wherever it runs, it is this node
        self._session: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        self._session = self._channel.stream_stream(SESSION)  # without serialisers: bytes in, bytes out

    async def serve(self, device: str, stream: EnvelopeStream) -> None:
        """Relays one session. Raises PeerUnavailable where the worker goes away, and what the worker ends the session with."""
        call = self._session(metadata=((DEVICE_KEY, device),))
        final_status = FinalStatus(call)
        self.num_sessions += 1
        upward = asyncio.create_task(_relay_up(stream, call))
        try:
            await _relay_down(call, stream)
            if (error := await final_status.error()) is not None:
                raise from_rpc(error, "cloud node's worker")
        except asyncio.CancelledError as cancelled:
            if was_cancelled():
                raise
            raise PeerUnavailable("The cloud node's worker has ended.", advice="Ask again.") from cancelled
        finally:
            self.num_sessions -= 1
            upward.cancel()
            call.cancel()
            await asyncio.gather(upward, return_exceptions=True)

    async def close(self) -> None:
        """Closes the connection; sessions over it end."""
        await self._channel.close()


async def _relay_up(stream: EnvelopeStream, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
    """Relays from device to worker. A worker that went away is seen by the other direction."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while (envelope := await stream.read()) is not None:
            await call.write(envelope)
        await call.done_writing()


async def _relay_down(call: grpc.aio.StreamStreamCall[bytes, bytes], stream: EnvelopeStream) -> None:
    """Worker to device, until the worker ends the call; with which status is not told here."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while isinstance(envelope := await to_its_end(call.read(), call.cancel), bytes):
            await stream.write(envelope)
