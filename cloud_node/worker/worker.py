"""One worker: it serves sessions, from their first envelope to their last, with one engine and its model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from cloud_node.engine.choice import make_engine
from cloud_node.engine.lane import Lane
from cloud_node.engine.prefix_cache import PrefixCache
from cloud_node.engine.recent import RecentMean
from cloud_node.pools.protocol import EnvelopeStream
from cloud_node.settings import CloudLimits, EngineKind
from cloud_node.worker.admission import Admission
from cloud_node.worker.handshake import OpenedSession, read_envelope, shake_hands
from cloud_node.worker.runtime import Runtime
from cloud_node.worker.session import Session
from splitvlm.codec.codec import Codec
from splitvlm.crypto.identity import Identity, peer_identity
from splitvlm.crypto.trust import still_trusted
from splitvlm.errors import DeadlineExceeded
from splitvlm.model.parts import CloudPart
from splitvlm.rpc.limits import MAX_SESSION_AGE_S
from splitvlm.wire.v1.data_pb2 import Compatibility

T = TypeVar("T")

QUEUE_WINDOW_S = 2.0  # below three heartbeats of 0.75 s: by then an idle node has said that its queue is empty

_log = logging.getLogger("splitvlm.cloud")


class EngineWorker:
    """Implements `Worker`, the seam to the front end (cloud_node/pools/protocol.py). It has the keys of its sessions."""

    def __init__(
        self,
        part: CloudPart,
        codec: Codec,
        compatibility: Compatibility,
        identity: Identity | None,
        limits: CloudLimits,
        engine: EngineKind = "torch",
        variant_codecs: Mapping[str, Codec] | None = None,
    ) -> None:
        """Takes the `identity` that signs handshakes; None where TLS is off. Raises what `make_engine` raises.

        `variant_codecs` are those of the devices' forms that the node serves beside the model's own.
        """
        self._compatibility = compatibility
        self._identity = identity
        self._limits = limits
        self._waits = RecentMean(QUEUE_WINDOW_S)
        prefix_cache = PrefixCache(limits.prefix_cache_bytes, limits.prefix_cache_s)
        self.runtime = Runtime(
            part=part,
            codec=codec,
            engine=make_engine(engine, part, self._waits, limits.kv_budget_bytes, prefix_cache.leave),
            pictures=Lane("pictures", self._waits),
            admission=Admission(limits, self.expected_queue_s),
            prefix_cache=prefix_cache,
            variant_codecs=variant_codecs or {},
        )

    async def serve(self, device: str, stream: EnvelopeStream) -> None:
        """Serves one session. Raises SplitvlmError, and TimeoutError where the device does not read."""
        sealed, certificate_der, variants = await self._open(stream)
        owner = peer_identity(certificate_der)[0] if certificate_der else device  # the channel's may be a gateway
        session = Session(sealed, self.runtime, self._limits, owner, self._requirement(certificate_der), variants)
        _log.info("session open", extra={"device": device})
        try:
            await session.run(lambda: read_envelope(stream))
        finally:
            _log.info("session closed", extra={"device": device, "requests": session.requests})

    def use(self, limits: CloudLimits) -> None:
        """Takes other limits, for sessions that open from now on."""
        self._limits = limits
        self.runtime.prefix_cache.use(limits.prefix_cache_bytes, limits.prefix_cache_s)
        self.runtime.admission.use(limits)
        self.runtime.engine.use(limits.kv_budget_bytes)

    @property
    def jobs(self) -> int:
        """Returns how many pieces of the engine's work were begun."""
        return self.runtime.engine.jobs

    @property
    def in_work(self) -> bool:
        """Tells whether any work runs or waits."""
        return self.runtime.engine.in_work or self.runtime.pictures.in_work

    async def measure(self, step: Callable[[], T]) -> T:
        """Runs a step of a measurement with nothing else beside it in the engine."""
        return await self.runtime.engine.measure(step)

    @property
    def mean_queue_s(self) -> float:
        """Returns how long work of the last seconds waited, in seconds; 0 where there was none."""
        return self._waits.at(time.monotonic())

    def expected_queue_s(self, device: str, picture: bool) -> float:
        """Returns how long a further request of this device would wait, for both threads where it brings a picture."""
        engine_s = self.runtime.engine.expected_queue_s(device)
        return engine_s + self.runtime.pictures.expected_queue_s(device) if picture else engine_s

    def close(self) -> bool:
        """Ends the threads, and waits a little for what runs; returns whether they have ended."""
        return all([self.runtime.engine.close(), self.runtime.pictures.close()])

    async def _open(self, stream: EnvelopeStream) -> OpenedSession:
        return await shake_hands(stream, self._compatibility, self._identity)

    def _requirement(self, certificate_der: bytes) -> Callable[[], None]:
        """Returns what holds for each further request: the device's certificate counts, and the session is not too old."""
        opened_s, require_trusted = time.monotonic(), still_trusted(certificate_der, self._identity)

        def require() -> None:
            if time.monotonic() - opened_s > MAX_SESSION_AGE_S:
                raise DeadlineExceeded("The session is too old for another request.", advice="Open a new one.")
            require_trusted()

        return require
