"""The seam between the front end and a worker: a session's envelopes cross it, as bytes.

The front end has the connection, and knows which device holds it. It has no key of a session: to it an envelope is bytes of
some length. The worker has the session: its handshake, frames, requests and memory. A pool says which worker a session goes to.
Nothing here needs torch, and nothing crosses that cannot go to another machine.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from cloud_node.settings import CloudLimits


class EnvelopeStream(Protocol):
    """Is one device's stream. Each envelope is a serialised `Envelope` (proto/splitvlm/wire/v1/data.proto)."""

    async def read(self) -> bytes | None:
        """Returns the device's next envelope; None once the device has closed its side."""

    async def write(self, envelope: bytes) -> None:
        """Sends an envelope to the device. Raises TimeoutError where the device does not read for too long."""


class Worker(Protocol):
    """Serves sessions with one model."""

    async def serve(self, device: str, stream: EnvelopeStream) -> None:
        """Serves one session, from its first envelope until the device closes. A caller that is cancelled ends the session.

        `device` is the name in the connection's certificate; the handshake inside may name another one, behind a gateway.
        Raises SplitvlmError: the front end ends the device's stream with it.
        """


class PoolLoad(NamedTuple):
    """Says how much a pool has to do."""

    num_workers: int  # that serve
    mean_queue_s: float  # that work of the last seconds waited; 0 where there was none


class Pool(Protocol):
    """Places sessions on the workers behind one front end."""

    @property
    def load(self) -> PoolLoad:
        """Returns what the orchestrator and the ready line are told."""

    def worker_for(self, device: str) -> Worker:
        """Chooses the worker of a new session. Raises CapacityError, with a time to ask again, where none can serve it."""

    async def watch(self) -> None:
        """Follows the workers, restarts and scales them, until it is cancelled."""

    def use(self, limits: CloudLimits) -> None:
        """Gives the workers other limits, for sessions that open later; a worker elsewhere takes a moment to hear of it."""

    def close(self) -> bool:
        """Ends the workers, and waits a little for what runs; returns whether all have ended."""
