"""Builds the plan table of one device from what is known now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.registry import CloudNode, EdgeNode
from splitvlm.domain import Plan
from splitvlm.planning.costs import cost_lines, nearest_drops
from splitvlm.planning.table import PlanTable, build_table

QUEUE_STEP_S = 0.005  # smaller changes of a cloud node's queue do not make a new table


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """A table and the cloud node that it was made for (None where no cloud node lives)."""

    table: PlanTable
    cloud: CloudNode | None
    standby: tuple[str, ...] = ()  # addresses of the other cloud nodes, the shortest queue first

    def same_as(self, other: DeviceTable | None) -> bool:
        """Whether a device would gain nothing from being sent this one after the other."""
        return (
            other is not None
            and self.table.lines == other.table.lines
            and (self.cloud and self.cloud.address) == (other.cloud and other.cloud.address)
            and set(self.standby) == set(other.standby)
        )


def device_table(edge: EdgeNode, clouds: list[CloudNode], accuracy: Mapping[Plan, float], version: int) -> DeviceTable:
    """The table for the cloud node with the shortest queue. Raises ConfigError where the limits forbid every plan."""
    free_first = sorted(clouds, key=lambda node: (_rounded(node.queue_s), node.active_sessions, node.name))
    cloud = free_first[0] if free_first else None
    profile = replace(cloud.profile, queue_s=_rounded(cloud.queue_s)) if cloud else None
    measured = cloud.accuracy if cloud else {}
    lines = cost_lines(edge.profile, profile, {**nearest_drops(edge.profile.coding, measured), **accuracy})
    return DeviceTable(build_table(lines, edge.limits, version), cloud, tuple(node.address for node in free_first[1:]))


def _rounded(queue_s: float) -> float:
    return round(queue_s / QUEUE_STEP_S) * QUEUE_STEP_S
