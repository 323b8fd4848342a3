"""The way to one cloud node: what a request, the planner and the fleet ask of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

from edge_node.cloud.cloud_request import CloudRequest
from edge_node.cloud.exchange import Exchange
from edge_node.cloud.known_prefixes import KnownPrefixes
from edge_node.cloud.link_answer import LinkAnswer
from edge_node.cloud.link_meter import LinkMeter
from edge_node.cloud.node_health import NodeHealth
from edge_node.cloud.prober import Prober
from edge_node.cloud.session_pool import SessionPool
from splitvlm.crypto.identity import Identity
from splitvlm.link.estimator import LinkEstimate
from splitvlm.wire.v1 import data_pb2 as pb

FIRST_LOOK_S = 2.0  # that a question waits for the first measurement: it would wait for the session's set-up anyway


class CloudLink:
    """Holds one cloud node: its sessions, what is known of it and of the link, and who holds it."""

    def __init__(
        self,
        address: str,
        compatibility: pb.Compatibility,
        identity: Identity | None,
        cuts: list[str],
        deciding_bps: Callable[[float], Sequence[float]] = lambda _rtt_s: (),
    ) -> None:
        """Takes `deciding_bps`, which gives for a round-trip time in s the uplink rates where the choice of plan changes."""
        self.address = address
        self.meter = LinkMeter()
        self.health = NodeHealth()
        self.prefixes = KnownPrefixes()
        self.sessions = SessionPool(address, compatibility, identity, cuts, self.meter)
        self.prober = Prober(self.sessions, self.meter, self.health, deciding_bps)
        self._num_holders = 0
        self._unheld = asyncio.Event()
        self._unheld.set()

    @property
    def peer(self) -> str:
        """Returns the node's name for people."""
        return self.sessions.peer

    @property
    def is_ready(self) -> bool:
        """Tells whether the node answers and has room, as far as is known."""
        return self.health.reachable and self.health.has_room

    def estimate(self) -> LinkEstimate:
        """Returns what the link is believed to be now."""
        return self.meter.estimate()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the link open for somebody who may come to use it: until then `close_when_unheld` waits."""
        self._num_holders += 1
        self._unheld.clear()
        try:
            yield
        finally:
            self._num_holders -= 1
            if not self._num_holders:
                self._unheld.set()

    def answer(self, request: CloudRequest, exchange: Exchange) -> LinkAnswer:
        """Returns the tokens of one request, which begins when the first is asked for."""
        return LinkAnswer(self.sessions, self.meter, self.health, self.prefixes, request, exchange)

    async def first_look(self) -> None:
        """Waits for the first measurement, but not for long: before it, the choice of plan knows nothing of the link."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self.prober.looked.wait()

    def open_ahead(self) -> None:
        """Begins to open a session for the next request, where the node answers."""
        if self.health.reachable:
            self.sessions.open_ahead()

    async def close_when_unheld(self) -> None:
        """Closes the link when nobody holds it any more; where this wait is cancelled, at once."""
        try:
            await self._unheld.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Closes the channel, and all sessions with it."""
        await self.sessions.close()
