"""The cloud nodes that one edge node dials: which one is used, which stand by, and when a connection is let go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edge_node.cloud.link import CloudLink
from edge_node.privacy import PrivacyDoor
from splitvlm.crypto.identity import Identity
from splitvlm.rpc.addresses import require_loopback
from splitvlm.wire.v1 import data_pb2 as pb

_log = logging.getLogger("splitvlm.edge")
GRACE_S = 10.0
"""A node that is dialled no more is kept for so long: an orchestrator that starts again learns of its nodes one by one."""


@dataclass(frozen=True, slots=True)
class Dialling:
    """Holds what this device shows to every cloud node."""

    compatibility: pb.Compatibility
    identity: Identity | None
    cuts: list[str]


class CloudFleet:
    """Links to cloud nodes. Which of them there are changes only between requests."""

    def __init__(self, dialling: Dialling, privacy: PrivacyDoor) -> None:
        self.deciding_bps: Callable[[float], Sequence[float]] = lambda _rtt_s: ()  # until a planner has a table
        self._dialling = dialling
        self._privacy = privacy
        self._addresses: Sequence[str] = ()  # to be dialled, where anything may leave
        self._links: list[CloudLink] = []  # the one in use, then those that may take over
        self._probing: asyncio.Task[None] | None = None
        self._leaving: dict[str, tuple[CloudLink, asyncio.Task[None]]] = {}  # dialled no more, and not yet let go
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def link(self) -> CloudLink | None:
        """Returns the link to the cloud node in use."""
        return self._links[0] if self._links else None

    @property
    def standby(self) -> Sequence[CloudLink]:
        """Returns the links to the nodes that take over when it fails."""
        return self._links[1:]

    @property
    def is_retiring(self) -> bool:
        """Tells whether a link that is dialled no more is still to be closed."""
        return bool(self._retiring)

    @property
    def num_in_grace(self) -> int:
        """Returns how many links are dialled no more, and would be taken back."""
        return len(self._leaving)

    def require_dialable(self, address: str) -> None:
        """Raises ConfigError where this node may not dial the address: without keys it stays on its own machine."""
        if self._dialling.identity is None:
            require_loopback(address, "a cloud node's address")

    def use(self, addresses: Sequence[str]) -> None:
        """Dials these cloud nodes from the next request on, the first while it answers.

        Running requests keep what they have.
        """
        self._addresses = addresses
        wanted = [] if self._privacy.lets_nothing_out else list(dict.fromkeys(addresses))
        known = {link.address: link for link in self._links}
        if wanted == list(known):
            return
        for address, link in known.items():
            if address not in wanted:
                self._retire(link)
        self._links = [known.get(address) or self._taken_back(address) or self._dialled(address) for address in wanted]
        self._probe()

    def follow_privacy(self) -> None:
        """Dials, or lets go at once, where the privacy door has other settings."""
        self.use(self._addresses)

    @contextlib.contextmanager
    def held(self) -> Iterator[tuple[CloudLink, ...]]:
        """Holds the links for one request, the one in use first: whatever a new table says, none is closed before its end."""
        with contextlib.ExitStack() as stack:
            links = tuple(self._links)
            for link in links:
                stack.enter_context(link.held())
            yield links

    def on_fault(self, link: CloudLink) -> None:
        """Notes that this link's node failed in the middle of a request: the others come first from now on."""
        if len(self._links) > 1 and link is self._links[0]:
            self._links.append(self._links.pop(0))
            self._probe()

    def use_ready(self) -> None:
        """Uses, before a request, another node where the one in use does not answer or has no room, and another may."""
        ready = [link.is_ready for link in self._links]
        if any(ready) and not ready[0]:
            self.on_fault(self._links[0])

    async def close(self) -> None:
        """Closes every link."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        for task in self._retiring:
            task.cancel()
        links = [*self._links, *(link for link, _ in self._leaving.values())]
        await asyncio.gather(*self._retiring, *(link.close() for link in links), return_exceptions=True)

    def _dialled(self, address: str) -> CloudLink:
        dialling = self._dialling
        return CloudLink(
            address,
            dialling.compatibility,
            dialling.identity,
            dialling.cuts,
            lambda rtt_s: self.deciding_bps(rtt_s),
        )

    def _retire(self, link: CloudLink) -> None:
        """Closes it, unless it is wanted again soon: a node that comes and goes must not leave connections behind."""
        task = asyncio.create_task(self._let_go(link))
        self._leaving[link.address] = link, task
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _taken_back(self, address: str) -> CloudLink | None:
        """Returns a link that was to be closed: its sessions, its estimate and what it knows are worth keeping."""
        if address not in self._leaving:
            return None
        link, task = self._leaving.pop(address)
        task.cancel()
        return link

    async def _let_go(self, link: CloudLink) -> None:
        await asyncio.sleep(0.0 if self._privacy.lets_nothing_out else GRACE_S)
        del self._leaving[link.address]
        await link.close_when_unheld()  # not before its last request has ended

    def _probe(self) -> None:
        """Measures the link in use."""
        if self._probing is not None:
            self._probing.cancel()
        if self.link is not None:
            self._probing = asyncio.create_task(self.link.prober.probe_forever())
            _log.info("cloud node", extra={"address": self.link.address})
