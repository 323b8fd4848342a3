"""Who is there: nodes by name with their profiles and last sign of life. Pure: `now_s` is passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from splitvlm.domain import Plan
from splitvlm.planning.costs import CloudProfile, DeviceProfile
from splitvlm.planning.table import Limits

MISSED_BEATS = 3


@dataclass(frozen=True, slots=True)
class LinkSeen:
    """What a device last said of its link, and what it used since the report before."""

    uplink_bps: float
    rtt_s: float
    spread: float
    requests: Mapping[str, int]  # by plan
    at_s: float


@dataclass(frozen=True, slots=True)
class EdgeNode:
    name: str
    model: str
    weights_hash: str
    profile: DeviceProfile
    limits: Limits
    seen_s: float


@dataclass(frozen=True, slots=True)
class CloudNode:
    name: str
    model: str
    weights_hash: str
    address: str
    profile: CloudProfile
    seen_s: float
    queue_s: float = 0.0
    active_sessions: int = 0
    accuracy: Mapping[Plan, float] = field(default_factory=dict)  # drops measured for its model


class Registry:
    """Nodes that registered. A node is alive while its last beat is younger than three periods."""

    def __init__(self, heartbeat_s: float) -> None:
        self._limit_s = MISSED_BEATS * heartbeat_s
        self.nodes: dict[str, EdgeNode | CloudNode] = {}
        self.links: dict[str, LinkSeen] = {}  # by edge node

    def register(self, node: EdgeNode | CloudNode) -> None:
        self.nodes[node.name] = node

    def expect_beats(self, heartbeat_s: float) -> None:
        """Another period of beats from now on."""
        self._limit_s = MISSED_BEATS * heartbeat_s

    def report(self, name: str, seen: LinkSeen) -> None:
        """Keep the newest report of a node that is known; others are dropped, for a stranger must not fill the memory."""
        if name in self.nodes:
            self.links[name] = seen

    def beat(self, name: str, now_s: float, *, queue_s: float = 0.0, active_sessions: int = 0) -> bool:
        """Note a sign of life. False where the node is not known and must register."""
        node = self.nodes.get(name)
        if node is None:
            return False
        if isinstance(node, CloudNode):
            node = replace(node, queue_s=queue_s, active_sessions=active_sessions)
        self.nodes[name] = replace(node, seen_s=now_s)
        return True

    def is_alive(self, node: EdgeNode | CloudNode, now_s: float) -> bool:
        return now_s - node.seen_s <= self._limit_s

    def edge(self, name: str) -> EdgeNode | None:
        node = self.nodes.get(name)
        return node if isinstance(node, EdgeNode) else None

    def clouds_for(self, edge: EdgeNode, now_s: float) -> list[CloudNode]:
        """Living cloud nodes with the same weights, by name."""
        return sorted(
            (
                node
                for node in self.nodes.values()
                if isinstance(node, CloudNode) and node.weights_hash == edge.weights_hash and self.is_alive(node, now_s)
            ),
            key=lambda node: node.name,
        )
