"""Knows the nodes by name, their last sign of life, and which cloud nodes serve which weights. Pure: `now_s` is passed in.

Two processes of one name. Each start of a process makes a new `instance`. While the holder of a name lives, another instance
is refused, unless it may be the holder's successor: it comes from the same host and listens at the same address, where two
living processes never listen together. Then it takes the name; but two machines behind one NAT look alike in this, so that the
predecessor is remembered until it has been silent for as long as a dead node is: if it speaks before, both live, and it gets
its name back for good.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from splitvlm.domain import Plan
from splitvlm.errors import CapacityError, ConfigError, UsageError
from splitvlm.planning.costs import CloudProfile, DeviceProfile
from splitvlm.planning.kinds import AccuracyDrop
from splitvlm.planning.limits import PlanLimits

MISSED_HEARTBEATS = 3
EDGE_HEARTBEATS, MOST_EDGE_HEARTBEAT_S = 400.0, 300.0
"""A device sends a heartbeat once in so many periods, and once in five minutes at least: an idle one on a metered link has few
bytes a day. In between its open plan stream says that it lives."""
MAX_NODES = 10_000
FORGOTTEN_AFTER_S = 3_600.0  # a node that has been silent for so long is not listed any more
QUEUE_STEP_S, QUEUE_STEP_SHARE = 0.005, 0.25
"""A cloud's queue makes new tables when it moved by more than both: so much, and this share of what tables say of it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Tells where a process speaks from."""

    instance: str  # random, made anew at each start
    host: str  # from which its connection comes, as the orchestrator sees it
    listen: str  # host:port at which it listens on its own machine

    def may_succeed(self, other: Origin) -> bool:
        """Tells whether this process can be the other one, started again."""
        return (self.host, self.listen) == (other.host, other.listen)

    def __str__(self) -> str:
        return f"{self.host} (listening on {self.listen})"


@dataclass(frozen=True, slots=True)
class EdgeNode:
    """Holds a registered device: who it is, its model, its profile and its limits."""

    name: str
    model: str
    weights_hash: str
    origin: Origin
    profiles: tuple[DeviceProfile, ...]  # one a variant of its part
    limits: PlanLimits
    kind: bytes  # equal for devices whose weights, profiles and limits are equal


@dataclass(frozen=True, slots=True)
class CloudNode:
    """Holds a registered cloud node: its address, its model, its profile, measured drops, and how long requests wait there
    (s).
    """

    name: str
    model: str
    weights_hash: str
    origin: Origin
    address: str
    profiles: tuple[CloudProfile, ...]  # of which at most one serves a variant
    accuracy: Mapping[Plan, AccuracyDrop] = field(default_factory=dict)  # drops measured for its model
    queue_s: float = 0.0  # in steps, as tables say it


Node = EdgeNode | CloudNode


@dataclass(slots=True)
class _NameHolder:
    """Holds a name, who holds it, and the holder's last sign of life."""

    node: Node
    seen_s: float
    alive_until_s: float  # without another sign of life
    has_stream: bool = False  # of plans, open
    contested: bool = False  # another living process wanted the name: nobody succeeds the holder before it is dead
    predecessor: _NameHolder | None = None  # may live still


class Registry:
    """Knows the nodes that registered. A node is alive until it has missed three heartbeats."""

    def __init__(self, heartbeat_s: float, max_nodes: int = MAX_NODES) -> None:
        self._heartbeat_s = heartbeat_s
        self._max_nodes = max_nodes
        self._holders: dict[str, _NameHolder] = {}
        self._living_clouds: dict[str, dict[str, CloudNode]] = {}  # by weights, then by name
        self._generations: dict[str, int] = {}  # by weights
        self._counter = itertools.count(1)

    def expect_beats(self, heartbeat_s: float) -> None:
        """Sets another period of heartbeats from now on."""
        self._heartbeat_s = heartbeat_s

    def period_of(self, name: str) -> float:
        """Returns how often the node of that name is to send a heartbeat, in seconds."""
        return self.period_s(self._holders[name].node)

    def period_s(self, node: Node) -> float:
        """Returns how often the node is to send a heartbeat, in seconds."""
        if isinstance(node, CloudNode):
            return self._heartbeat_s
        return max(self._heartbeat_s, min(EDGE_HEARTBEATS * self._heartbeat_s, MOST_EDGE_HEARTBEAT_S))

    def register(self, node: Node, now_s: float) -> None:
        """Makes the node the holder of its name. Raises ConfigError where another living one is, CapacityError without room."""
        holder = self._holders.get(node.name)
        if holder is not None and holder.node.origin.instance != node.origin.instance:
            holder = self._succeed(holder, node, now_s)
        elif holder is not None:
            holder.node = node
        else:
            self._make_room(now_s)
            holder = _NameHolder(node, now_s, now_s)
        self._see(holder, now_s)
        self._holders[node.name] = holder
        self._put_in_pool(holder.node)

    def note_heartbeat(self, name: str, instance: str, now_s: float, *, queue_s: float = 0.0) -> bool:
        """Notes a sign of life. Returns whether tables depend on what it changed.

        Raises UsageError where the node must register, ConfigError where another living process has its name.
        """
        holder = self._holding(name, instance, now_s)
        self._see(holder, now_s)
        node = holder.node
        if not isinstance(node, CloudNode):
            return False
        if _moved(node.queue_s, queue_s):
            holder.node = node = replace(node, queue_s=round(queue_s / QUEUE_STEP_S) * QUEUE_STEP_S)
        return self._put_in_pool(node)

    def leave(self, name: str, instance: str) -> bool:
        """Removes a node that stops, if it holds its name. Returns whether tables depend on it."""
        holder = self._holders.get(name)
        if holder is None or holder.node.origin.instance != instance:
            return False
        del self._holders[name]
        return self._drop_from_pool(name)

    def stream_changed(self, name: str, instance: str, now_s: float, *, is_open: bool) -> None:
        """Notes whether a device has its plan stream open: without one it is dead as soon as a silent cloud node."""
        holder = self._holders.get(name)
        if holder is not None and holder.node.origin.instance != instance:
            holder = holder.predecessor
        if holder is not None and holder.node.origin.instance == instance:
            holder.has_stream = is_open
            self._see(holder, now_s)

    def expire(self, now_s: float) -> bool:
        """Notes the cloud nodes that have died of silence. Returns whether there are any."""
        living = [node for pool in self._living_clouds.values() for node in pool.values()]
        dead = [node for node in living if not self.is_alive(node.name, now_s)]
        return any([self._drop_from_pool(node.name) for node in dead])

    def forget(self, now_s: float) -> None:
        """Drops nodes that have been silent for long."""
        for name in [name for name, holder in self._holders.items() if now_s - holder.seen_s > FORGOTTEN_AFTER_S]:
            del self._holders[name]
            self._drop_from_pool(name)

    def nodes(self) -> list[Node]:
        """Returns all registered nodes, silent ones included until they are dropped."""
        return [holder.node for holder in self._holders.values()]

    def silent_s(self, name: str, now_s: float) -> float:
        """Returns seconds since the node's last sign of life."""
        return now_s - self._holders[name].seen_s

    def is_alive(self, name: str, now_s: float) -> bool:
        """Tells whether a registered node has sent a heartbeat lately enough. Raises KeyError for an unknown name."""
        return now_s <= self._holders[name].alive_until_s

    def edge(self, name: str) -> EdgeNode | None:
        """Returns the edge node of that name, or None where no edge node has it."""
        holder = self._holders.get(name)
        return holder.node if holder is not None and isinstance(holder.node, EdgeNode) else None

    def check_holder(self, name: str, instance: str, now_s: float) -> None:
        """Raises ConfigError where another living process has the name; a name that nobody has is anyone's."""
        holder = self._holders.get(name)
        if holder is not None and holder.node.origin.instance != instance and self.is_alive(name, now_s):
            raise _name_taken(holder.node)

    def clouds_for(self, edge: EdgeNode) -> tuple[CloudNode, ...]:
        """Returns living cloud nodes with the device's weights."""
        return tuple(self._living_clouds.get(edge.weights_hash, {}).values())

    def generation(self, weights_hash: str) -> int:
        """Returns another number whenever `clouds_for` devices with these weights gives something else."""
        return self._generations.get(weights_hash, 0)

    def _succeed(self, holder: _NameHolder, node: Node, now_s: float) -> _NameHolder:
        """Returns the name's new holder, for a process that does not hold it. Raises ConfigError."""
        if (reinstated := self._reinstated(holder, node.origin.instance, now_s)) is not None:
            reinstated.node = node
            self._drop_from_pool(holder.node.name)
            return reinstated
        alive = self.is_alive(node.name, now_s)
        if alive and (holder.contested or not node.origin.may_succeed(holder.node.origin)):
            raise _name_taken(holder.node, node)
        self._drop_from_pool(holder.node.name)
        holder.predecessor = None  # one is remembered, not a chain
        return _NameHolder(node, now_s, now_s, predecessor=holder if alive else None)

    def _holding(self, name: str, instance: str, now_s: float) -> _NameHolder:
        holder = self._holders.get(name)
        if holder is None:
            raise UsageError(f"{name} is not registered.", advice="Register first.")
        if holder.node.origin.instance == instance:
            return holder
        if (reinstated := self._reinstated(holder, instance, now_s)) is not None:
            self._drop_from_pool(holder.node.name)
            self._holders[name] = reinstated
            return reinstated
        if self.is_alive(name, now_s):
            raise _name_taken(holder.node)
        raise UsageError(f"{name} is not registered.", advice="Register first.")

    def _reinstated(self, holder: _NameHolder, instance: str, now_s: float) -> _NameHolder | None:
        """Returns the holder of a predecessor that was taken for dead and speaks."""
        before = holder.predecessor
        if before is None or before.node.origin.instance != instance or now_s > before.alive_until_s:
            return None
        before.contested = True
        return before

    def _see(self, holder: _NameHolder, now_s: float) -> None:
        period_s = self.period_s(holder.node) if holder.has_stream else self._heartbeat_s
        holder.seen_s, holder.alive_until_s = now_s, now_s + MISSED_HEARTBEATS * period_s

    def _make_room(self, now_s: float) -> None:
        """Raises CapacityError."""
        if len(self._holders) < self._max_nodes:
            return
        name = min(self._holders, key=lambda name: self._holders[name].alive_until_s)
        if self.is_alive(name, now_s):
            raise CapacityError(
                f"The orchestrator knows {self._max_nodes} living nodes, and takes no more.",
                advice="Run another orchestrator for other nodes.",
                retry_after_s=MISSED_HEARTBEATS * self._heartbeat_s,
            )
        del self._holders[name]
        self._drop_from_pool(name)

    def _put_in_pool(self, node: Node) -> bool:
        """Returns whether a pool is another one now."""
        if not isinstance(node, CloudNode):
            return self._drop_from_pool(node.name)  # the name may have been a cloud node's
        if self._living_clouds.get(node.weights_hash, {}).get(node.name) is node:
            return False
        self._drop_from_pool(node.name)
        self._living_clouds.setdefault(node.weights_hash, {})[node.name] = node
        self._generations[node.weights_hash] = next(self._counter)
        return True

    def _drop_from_pool(self, name: str) -> bool:
        """Returns whether it was in one."""
        for weights_hash, pool in self._living_clouds.items():
            if pool.pop(name, None) is not None:
                self._generations[weights_hash] = next(self._counter)
                if not pool:
                    del self._living_clouds[weights_hash], self._generations[weights_hash]
                return True
        return False


def _moved(announced_s: float, queue_s: float) -> bool:
    moved_s = abs(queue_s - announced_s)
    return moved_s > QUEUE_STEP_S and moved_s > QUEUE_STEP_SHARE * announced_s


def _name_taken(holder: Node, other: Node | None = None) -> ConfigError:
    beside = f" beside {other.origin}" if other is not None else ""
    return ConfigError(
        f"The name {holder.name} belongs to another living node, at {holder.origin}{beside}.",
        advice="Give each node a name of its own (`node`), with keys of its own; a node that stopped frees its name at once, "
        "one that was killed after three missed heartbeats.",
    )
