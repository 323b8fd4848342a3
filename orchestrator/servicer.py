"""The control plane's service. Translates only: the registry and the tables decide."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from orchestrator.registry import CloudNode, EdgeNode, LinkSeen, Registry
from orchestrator.tables import DeviceTable, device_table
from splitvlm.crypto.identity import Role
from splitvlm.domain import Plan
from splitvlm.errors import ConfigError, PermissionRefused, UsageError
from splitvlm.rpc.callers import require_role
from splitvlm.rpc.plans import cloud_profile_from_wire, device_profile_from_wire, limits_from_wire, table_to_wire
from splitvlm.rpc.status import streaming, unary
from splitvlm.wire.v1 import control_pb2 as pb
from splitvlm.wire.v1 import control_pb2_grpc

_log = logging.getLogger("splitvlm.orchestrator")


class ControlServicer(control_pb2_grpc.ControlServicer):
    def __init__(self, heartbeat_s: float, accuracy: Mapping[Plan, float], *, plaintext: bool) -> None:
        self._heartbeat_s = heartbeat_s
        self._accuracy = accuracy
        self._plaintext = plaintext
        self._registry = Registry(heartbeat_s)
        self._changed = asyncio.Condition()
        self._version = 0

    def use(self, heartbeat_s: float, accuracy: Mapping[Plan, float]) -> None:
        """Other settings, from the next table and the next registration on; open plan streams follow at once."""
        self._heartbeat_s, self._accuracy = heartbeat_s, accuracy
        self._registry.expect_beats(heartbeat_s)
        self._announcing = asyncio.create_task(self._announce())

    @unary
    async def Register(self, request: pb.Registration, context: Any) -> pb.Registered:
        self._own_node(context, request.node, Role.EDGE if request.role == "edge" else Role.CLOUD)
        node = _node(request, time.monotonic())
        self._registry.register(node)
        _log.info("registered", extra={"node": request.node, "role": request.role, "model": request.model})
        await self._announce()
        return pb.Registered(heartbeat_ms=int(1e3 * self._heartbeat_s))

    @unary
    async def Heartbeat(self, request: pb.Beat, context: Any) -> pb.Beaten:
        self._own_node(context, request.node, Role.EDGE, Role.CLOUD)
        known = self._registry.beat(
            request.node, time.monotonic(), queue_s=1e-6 * request.queue_us, active_sessions=request.active_sessions
        )
        if not known:
            raise UsageError(f"{request.node} is not registered.", advice="Register first.")
        await self._announce()
        return pb.Beaten()

    @unary
    async def Report(self, request: pb.LinkReport, context: Any) -> pb.Reported:
        self._own_node(context, request.node, Role.EDGE)
        plans = {use.plan: use.requests for use in request.plans}
        seen = LinkSeen(request.uplink_bps, request.rtt_s, request.spread, plans, time.monotonic())
        self._registry.report(request.node, seen)
        _log.debug(
            "link report",
            extra={
                "node": request.node,
                "uplink_bps": round(request.uplink_bps),
                "rtt_s": request.rtt_s,
                "requests": request.requests,
                "plans": plans,
            },
        )
        return pb.Reported()

    @streaming
    async def WatchPlans(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.PlanTable]:
        self._own_node(context, request.node, Role.EDGE)
        last: DeviceTable | None = None
        while True:
            table = self._table(request.node)
            if table is not None and not table.same_as(last):
                last = table
                cloud = table.cloud
                yield table_to_wire(
                    table.table,
                    cloud_node=cloud.name if cloud else "",
                    cloud_address=cloud.address if cloud else "",
                    standby=table.standby,
                )
            await self._wait()

    @unary
    async def Nodes(self, request: pb.NodesRequest, context: Any) -> pb.NodeList:
        require_role(context, *Role, plaintext=self._plaintext)
        now_s = time.monotonic()
        return pb.NodeList(nodes=[self._status(node, now_s) for node in self._registry.nodes.values()])

    def _table(self, name: str) -> DeviceTable | None:
        edge = self._registry.edge(name)
        if edge is None:
            return None
        self._version += 1
        try:
            clouds = self._registry.clouds_for(edge, time.monotonic())
            return device_table(edge, clouds, self._accuracy, self._version)
        except ConfigError as error:
            _log.warning("no plan for %s: %s", name, error)
            return None

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self) -> None:
        """Until something changed, or a node may have died of silence."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait(), self._heartbeat_s)
            except TimeoutError:
                return

    def _own_node(self, context: Any, name: str, *roles: Role) -> None:
        """A node speaks for itself only."""
        caller = require_role(context, *roles, plaintext=self._plaintext)
        if caller is not None and caller != name:
            raise PermissionRefused(f"The certificate of {caller} does not allow it to speak for {name}.")

    def _status(self, node: EdgeNode | CloudNode, now_s: float) -> pb.NodeStatus:
        return pb.NodeStatus(
            node=node.name,
            role="cloud" if isinstance(node, CloudNode) else "edge",
            model=node.model,
            address=node.address if isinstance(node, CloudNode) else "",
            last_seen_s=now_s - node.seen_s,
            alive=self._registry.is_alive(node, now_s),
        )


def _node(request: pb.Registration, now_s: float) -> EdgeNode | CloudNode:
    if request.role == "edge":
        profile = device_profile_from_wire(request.device)
        limits = limits_from_wire(request.limits)
        return EdgeNode(request.node, request.model, request.weights_hash, profile, limits, now_s)
    if request.role == "cloud":
        cloud_profile = cloud_profile_from_wire(request.cloud)
        accuracy = {Plan.parse(entry.plan): entry.drop for entry in request.accuracy}
        return CloudNode(
            *(request.node, request.model, request.weights_hash, request.address, cloud_profile, now_s),
            accuracy=accuracy,
        )
    raise UsageError(f"'{request.role}' is not a role that registers.", advice="Roles are edge and cloud.")
