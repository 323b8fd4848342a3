"""Builds the plan table of one device from what is known now. Pure.

Devices are spread over cloud nodes whose queues are equally long by a hash of both names (rendezvous hashing): devices that are
alike do not all run to one node, and a node's death moves only its own devices.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.registry import CloudNode, EdgeNode
from splitvlm.domain import Plan
from splitvlm.errors import ConfigError
from splitvlm.planning.costs import CostLine, nearest_drops
from splitvlm.planning.kinds import AccuracyDrop
from splitvlm.planning.limits import unmeasured
from splitvlm.planning.profiles import lines_of_variants
from splitvlm.planning.table import build_table
from splitvlm.rpc.limits import MAX_STANDBY

NO_CLOUD = "No living cloud node has this device's model, and the device alone cannot answer. "
MAX_KEPT = 1_024  # built tables, by kind of device and cloud node


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """Holds a device's lines and the cloud node that they were made for (None where no cloud node lives)."""

    lines: tuple[CostLine, ...]
    cloud: CloudNode | None
    standby: tuple[str, ...] = ()  # addresses of the other cloud nodes, in the order in which they take over
    problem: str = ""  # one sentence: why there are no lines
    notice: str = ""  # one sentence: which plans are left out because nobody measured them

    def same_as(self, other: DeviceTable | None) -> bool:
        """Tells whether a device would gain nothing from being sent this one after the other."""
        return (
            other is not None
            and self.lines == other.lines
            and (self.problem, self.notice) == (other.problem, other.notice)
            and (self.cloud and self.cloud.address) == (other.cloud and other.cloud.address)
            and set(self.standby) == set(other.standby)
        )


@dataclass(frozen=True, slots=True)
class _BuiltLines:
    """Holds what the limits left of a device's plans with one cloud node; `cloud` keeps the key's object alive."""

    lines: tuple[CostLine, ...]
    problem: str
    notice: str
    cloud: CloudNode | None


class Tables:
    """Builds tables, and keeps what it built: devices that are alike share one for each cloud node."""

    def __init__(self, accuracy: Mapping[Plan, float]) -> None:
        self._accuracy = accuracy  # drops that the configuration names; they count before measured ones
        self._built: dict[tuple[bytes, int], _BuiltLines] = {}

    def table_for(self, edge: EdgeNode, clouds: Sequence[CloudNode]) -> DeviceTable:
        """Returns the table with the cloud node that suits the device best."""
        ranked = ranking(edge.name, clouds)
        cloud = ranked[0] if ranked else None
        built = self._lines(edge, cloud)
        standby = tuple(node.address for node in ranked[1 : 1 + MAX_STANDBY])
        return DeviceTable(built.lines, cloud, standby, built.problem, built.notice)

    def _lines(self, edge: EdgeNode, cloud: CloudNode | None) -> _BuiltLines:
        key = edge.kind, id(cloud)
        if key not in self._built:
            if len(self._built) >= MAX_KEPT:
                self._built.clear()
            self._built[key] = self._build(edge, cloud)
        return self._built[key]

    def _build(self, edge: EdgeNode, cloud: CloudNode | None) -> _BuiltLines:
        clouds = [replace(profile, queue_s=cloud.queue_s) for profile in cloud.profiles] if cloud else []
        plans = [plan for profile in edge.profiles for plan in profile.plans]
        drops = nearest_drops(plans, cloud.accuracy if cloud else {})
        for plan, mean in self._accuracy.items():  # the operator's word on the mean; what was measured by kind stays
            drops[plan] = replace(drops.get(plan, AccuracyDrop(mean)), mean=mean)
        lines = lines_of_variants(edge.profiles, clouds, drops)
        try:
            return _BuiltLines(build_table(lines, edge.limits, 0).lines, "", unmeasured(lines, edge.limits), cloud)
        except ConfigError as error:
            return _BuiltLines((), f"{'' if cloud else NO_CLOUD}{error}", "", cloud)


def ranking(device: str, clouds: Sequence[CloudNode]) -> list[CloudNode]:
    """Sorts cloud nodes by their queues, the shortest first; of equals, by the hash of both names."""
    return sorted(clouds, key=lambda cloud: (cloud.queue_s, _rendezvous(device, cloud.name)))


def _rendezvous(device: str, cloud: str) -> bytes:
    return hashlib.blake2b(f"{device}/{cloud}".encode(), digest_size=8).digest()
