"""What one edge node holds while it runs: the engine, the link to its cloud node, counters. Changes only between requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter

from edge_node.cloud_link import CloudLink
from edge_node.engine import Engine
from edge_node.settings import EdgeSettings
from splitvlm.crypto.identity import Identity
from splitvlm.domain import Cut, Plan
from splitvlm.wire.v1 import data_pb2

_log = logging.getLogger("splitvlm.edge")


class Runtime:
    def __init__(
        self,
        settings: EdgeSettings,
        engine: Engine,
        cuts: tuple[Cut, ...],
        agreement: data_pb2.Agreement,
        identity: Identity | None,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.link: CloudLink | None = None
        self.orchestrator_reachable = False
        self._cuts = [str(cut) for cut in cuts]
        self._agreement = agreement
        self._identity = identity
        self._probing: asyncio.Task[None] | None = None
        self._retired: list[CloudLink] = []
        self._used: Counter[str] = Counter()

    def use_cloud(self, address: str) -> None:
        """Dial this cloud node from the next request on. Running requests keep the old one."""
        if self.link is not None and self.link.address == address:
            return
        if self._probing is not None:
            self._probing.cancel()
        if self.link is not None:
            self._retired.append(self.link)
        self.link = CloudLink(address, self._agreement, self._identity, self._cuts)
        self._probing = asyncio.create_task(self.link.probe_forever())
        _log.info("cloud node", extra={"address": address})

    def count(self, plan: Plan) -> None:
        self._used[str(plan)] += 1

    def take_counts(self) -> dict[str, int]:
        """Requests by plan since the last call."""
        counts, self._used = dict(self._used), Counter()
        return counts

    async def close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probing
        for link in (*self._retired, *([self.link] if self.link else [])):
            await link.close()
        self.engine.close()
