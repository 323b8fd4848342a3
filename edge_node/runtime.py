"""What one edge node holds while it runs: the engine, the link to its cloud node, counters. Changes only between requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from edge_node.cloud.link import CloudLink
from edge_node.engine import Engine
from edge_node.privacy import PrivacyDoor
from edge_node.settings import EdgeSettings
from splitvlm.crypto.identity import Identity
from splitvlm.domain import Cut, Plan
from splitvlm.rpc.addresses import require_loopback
from splitvlm.wire.v1 import data_pb2

_log = logging.getLogger("splitvlm.edge")
GRACE_S = 10.0
"""A node that is dialled no more is kept for so long: an orchestrator that starts again learns of its nodes one by one."""


class Runtime:
    def __init__(
        self,
        settings: EdgeSettings,
        engine: Engine,
        cuts: tuple[Cut, ...],
        compatibility: data_pb2.Compatibility,
        identity: Identity | None,
        privacy: PrivacyDoor,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.privacy = privacy
        self._clouds: Sequence[str] = ()  # to be dialled, where anything may leave
        self._links: list[CloudLink] = []  # the one in use, then those that may take over
        self.orchestrator_reachable = False
        self.deciding_bps: Callable[[float], Sequence[float]] = lambda _rtt_s: ()  # until a planner has a table
        self._cuts = [str(cut) for cut in cuts]
        self._compatibility = compatibility
        self._identity = identity
        self._probing: asyncio.Task[None] | None = None
        self._leaving: dict[str, tuple[CloudLink, asyncio.Task[None]]] = {}  # dialled no more, and not yet let go
        self._retiring: set[asyncio.Task[None]] = set()
        self._used: Counter[str] = Counter()

    @property
    def link(self) -> CloudLink | None:
        """To the cloud node in use."""
        return self._links[0] if self._links else None

    @property
    def standby(self) -> Sequence[CloudLink]:
        """To the nodes that take over when it fails."""
        return self._links[1:]

    def require_dialable(self, address: str) -> None:
        """Raises ConfigError where this node may not dial the address: without keys it stays on its own machine."""
        if self._identity is None:
            require_loopback(address, "a cloud node's address")

    def use_clouds(self, addresses: Sequence[str]) -> None:
        """Dial these cloud nodes from the next request on, the first while it answers. Running requests keep what they have."""
        self._clouds = addresses
        wanted = [] if self.privacy.lets_nothing_out else list(dict.fromkeys(addresses))
        known = {link.address: link for link in self._links}
        if wanted == list(known):
            return
        for address, link in known.items():
            if address not in wanted:
                self._retire(link)
        self._links = [
            known.get(address)
            or self._taken_back(address)
            or CloudLink(
                address, self._compatibility, self._identity, self._cuts, lambda rtt_s: self.deciding_bps(rtt_s)
            )
            for address in wanted
        ]
        self._probe()

    def follow_privacy(self) -> None:
        """The privacy door has other settings: dial, or let go at once."""
        self.use_clouds(self._clouds)

    @contextlib.contextmanager
    def held(self) -> Iterator[tuple[CloudLink | None, Sequence[CloudLink]]]:
        """The link in use and its standbys, for one request: whatever a new table says, none is closed before its end."""
        with contextlib.ExitStack() as stack:
            links = list(self._links)
            for link in links:
                stack.enter_context(link.held())
            yield (links[0] if links else None), links[1:]

    def on_fault(self, link: CloudLink) -> None:
        """The node of this link failed in the middle of a request: the others come first from now on."""
        if len(self._links) > 1 and link is self._links[0]:
            self._links.append(self._links.pop(0))
            self._probe()

    def use_reachable(self) -> None:
        """Before a request: where the node in use does not answer probes or has no room, and another may, that one is used."""
        ready = [link.reachable and link.has_room for link in self._links]
        if any(ready) and not ready[0]:
            self.on_fault(self._links[0])

    def _retire(self, link: CloudLink) -> None:
        """Close it, unless it is wanted again soon: a node that comes and goes must not leave connections behind."""
        task = asyncio.create_task(self._let_go(link))
        self._leaving[link.address] = link, task
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _taken_back(self, address: str) -> CloudLink | None:
        """Its sessions, its estimate and the pictures that it knows are worth keeping."""
        if address not in self._leaving:
            return None
        link, task = self._leaving.pop(address)
        task.cancel()
        return link

    async def _let_go(self, link: CloudLink) -> None:
        await asyncio.sleep(0.0 if self.privacy.lets_nothing_out else GRACE_S)
        del self._leaving[link.address]
        await link.close_when_idle()  # not before its last request has ended

    def _probe(self) -> None:
        """The link in use is the one that is measured."""
        if self._probing is not None:
            self._probing.cancel()
        if self.link is not None:
            self._probing = asyncio.create_task(self.link.probe_forever())
            _log.info("cloud node", extra={"address": self.link.address})

    def count(self, plan: Plan) -> None:
        self._used[str(plan)] += 1

    def take_counts(self) -> dict[str, int]:
        """Requests by plan since the last call."""
        counts, self._used = dict(self._used), Counter()
        return counts

    async def close(self) -> bool:
        """Whether the engine's jobs have ended: where one runs on, nothing can cut it short."""
        if self._probing is not None:
            self._probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probing
        for task in self._retiring:
            task.cancel()
        links = [*self._links, *(link for link, _ in self._leaving.values())]
        await asyncio.gather(*self._retiring, *(link.close() for link in links), return_exceptions=True)
        return self.engine.close()
