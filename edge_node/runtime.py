"""Holds what one edge node needs while it runs: settings, engine, cloud nodes, counters. It changes only between requests."""

from __future__ import annotations

from collections import Counter

from edge_node.cloud.fleet import CloudFleet
from edge_node.engine import DeviceEngine
from edge_node.privacy import PrivacyDoor
from edge_node.settings import EdgeSettings
from splitvlm.domain import Plan


class Runtime:
    """Is shared by whoever serves applications and whoever follows the orchestrator."""

    def __init__(self, settings: EdgeSettings, engine: DeviceEngine, privacy: PrivacyDoor, clouds: CloudFleet) -> None:
        self.settings = settings
        self.engine = engine
        self.privacy = privacy
        self.clouds = clouds
        self.orchestrator_reachable = False
        self._used: Counter[str] = Counter()

    def count(self, plan: Plan) -> None:
        """Counts one request that was answered under the plan."""
        self._used[str(plan)] += 1

    def take_counts(self) -> dict[str, int]:
        """Returns the requests by plan since the last call."""
        counts, self._used = dict(self._used), Counter()
        return counts

    async def close(self) -> bool:
        """Closes links and threads. Returns whether the engine's jobs have ended: a running one cannot be cut short."""
        await self.clouds.close()
        return self.engine.close()
