"""The control plane's service. Translates only: the registry, the pace and the tables decide, the publisher sends."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from orchestrator.pace import Pace
from orchestrator.plan_streams import PlanStreams
from orchestrator.publisher import Publisher
from orchestrator.registry import CloudNode, EdgeNode, Node, Origin, Registry
from splitvlm.crypto.identity import Role
from splitvlm.domain import Plan
from splitvlm.errors import Cancelled, CapacityError, PermissionRefused
from splitvlm.rpc.authorization import require_role
from splitvlm.rpc.control_messages import (
    MAX_LISTED_NODES,
    check_heartbeat,
    check_leave,
    check_registration,
    check_report,
    check_watch,
)
from splitvlm.rpc.plans import limits_from_wire
from splitvlm.rpc.profiles import accuracy_from_wire, cloud_profiles_from_wire, device_profiles_from_wire
from splitvlm.rpc.status import streaming, unary
from splitvlm.wire.v1 import control_pb2 as pb
from splitvlm.wire.v1 import control_pb2_grpc

_log = logging.getLogger("splitvlm.orchestrator")
CALLS_AT_ONCE = 20.0
CALLS_PER_HEARTBEAT = 2.0  # in the long run a node may call so often in each period of heartbeats,
CALLS_PER_S = 1.0  # and so often besides
REGISTRATIONS_AT_ONCE, REGISTRATIONS_PER_S = 6.0, 0.2  # besides: each may make a table of many plans
LISTED_BYTES = 96 * 1024  # of a reply that lists nodes: with what frames them it stays below a message's limit
REFUSAL_PAUSE_S = 0.5  # before a call is refused for its pace: a caller that asks in a loop is slowed down to this


class ControlServicer(control_pb2_grpc.ControlServicer):
    """Translates the control plane's calls; what they mean is decided by the registry, the tables and the publisher."""

    def __init__(self, heartbeat_s: float, accuracy: Mapping[Plan, float], *, plaintext: bool) -> None:
        self._heartbeat_s = heartbeat_s
        self._plaintext = plaintext
        self._registry = Registry(heartbeat_s)
        self._streams = PlanStreams()
        self._pace = Pace(_calls_per_s(heartbeat_s), CALLS_AT_ONCE)
        self._registration_pace = Pace(REGISTRATIONS_PER_S, REGISTRATIONS_AT_ONCE)
        self._publisher = Publisher(self._registry, self._streams, accuracy)

    async def run(self) -> None:
        """Keeps plan streams up to date. Returns only by cancellation."""
        await self._publisher.run()

    def use(self, heartbeat_s: float, accuracy: Mapping[Plan, float]) -> None:
        """Uses other settings, from the next table and the next registration on; open plan streams follow at once."""
        self._heartbeat_s = heartbeat_s
        self._registry.expect_beats(heartbeat_s)
        self._pace.rate_per_s = _calls_per_s(heartbeat_s)
        self._publisher.use(accuracy)

    def end_streams(self) -> None:
        """Ends the plan streams before the server stops: they would keep it waiting."""
        self._streams.end_all(Cancelled("The orchestrator is stopping."))

    @unary
    async def Register(self, request: pb.Registration, context: Any) -> pb.RegisterReply:
        """Registers a node with its profile, and has plan tables rebuilt. Answers with the heartbeat's period."""
        check_registration(request)
        await self._admit(context, request.node, Role.EDGE if request.role == "edge" else Role.CLOUD)
        await self._keep(self._registration_pace, request.node)
        node = _node(request, _host_of(context.peer()))
        self._registry.register(node, time.monotonic())
        if self._streams.has(request.node, request.instance):  # it may have come first
            self._note_stream(request)
        self._publisher.changed()
        _log.info("registered", extra={"node": request.node, "role": request.role, "model": request.model})
        return pb.RegisterReply(heartbeat_ms=self._heartbeat_ms(request.node))

    @unary
    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Any) -> pb.HeartbeatReply:
        """Notes that a node is alive, and how long requests wait at a cloud node."""
        check_heartbeat(request)
        await self._admit(context, request.node, Role.EDGE, Role.CLOUD)
        queue_s = 1e-6 * request.queue_us
        if self._registry.note_heartbeat(request.node, request.instance, time.monotonic(), queue_s=queue_s):
            self._publisher.load_changed()
        return pb.HeartbeatReply(heartbeat_ms=self._heartbeat_ms(request.node))

    @unary
    async def Leave(self, request: pb.LeaveRequest, context: Any) -> pb.LeaveReply:
        """Takes a node out of service, as it asked before its end."""
        check_leave(request)
        await self._admit(context, request.node, Role.EDGE, Role.CLOUD)
        if self._registry.leave(request.node, request.instance):
            self._publisher.changed()
        _log.info("left", extra={"node": request.node})
        return pb.LeaveReply()

    @unary
    async def Report(self, request: pb.LinkReport, context: Any) -> pb.ReportReply:
        """Logs what a device measured of its link and which plans it used."""
        check_report(request)
        await self._admit(context, request.node, Role.EDGE)
        _log.debug(
            "link report",
            extra={
                "node": request.node,
                "uplink_bps": round(request.uplink_bps),
                "rtt_s": request.rtt_s,
                "requests": request.requests,
                "plans": {use.plan: use.requests for use in request.plans},
            },
        )
        return pb.ReportReply()

    @streaming
    async def WatchPlans(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.PlanTable]:
        """Streams plan tables to a device: one at once, then one whenever it changes."""
        check_watch(request)
        await self._admit(context, request.node, Role.EDGE)
        self._registry.check_holder(request.node, request.instance, time.monotonic())
        stream = self._streams.open(request.node, request.instance)
        self._note_stream(request)
        self._publisher.changed()
        try:
            async for message in stream.messages():
                yield message
        finally:
            self._streams.close(stream)
            self._note_stream(request)

    @unary
    async def Nodes(self, request: pb.NodesRequest, context: Any) -> pb.NodeList:
        """Lists the registered nodes, those heard last first, as many as one message holds."""
        caller = require_role(context, *Role, plaintext=self._plaintext)
        await self._keep(self._pace, f"nodes/{caller or ''}")
        now_s = time.monotonic()
        nodes = sorted(self._registry.nodes(), key=lambda node: (self._registry.silent_s(node.name, now_s), node.name))
        statuses = [self._status(node, now_s) for node in nodes[:MAX_LISTED_NODES]]
        sizes = itertools.accumulate(status.ByteSize() for status in statuses)
        return pb.NodeList(nodes=[status for status, size in zip(statuses, sizes, strict=True) if size < LISTED_BYTES])

    def _heartbeat_ms(self, name: str) -> int:
        return math.ceil(1e3 * self._registry.period_of(name))

    def _note_stream(self, request: pb.Registration | pb.WatchRequest) -> None:
        """Notes whether this process has a plan stream open, which is a sign of its life."""
        is_open = self._streams.has(request.node, request.instance)
        self._registry.stream_changed(request.node, request.instance, time.monotonic(), is_open=is_open)

    async def _admit(self, context: Any, name: str, *roles: Role) -> None:
        """Admits a call: a node speaks for itself only, and no faster than it must. Raises PermissionRefused, CapacityError."""
        caller = require_role(context, *roles, plaintext=self._plaintext)
        if caller is not None and caller != name:
            raise PermissionRefused(f"The certificate of {caller} does not allow it to speak for {name}.")
        await self._keep(self._pace, name)

    async def _keep(self, pace: Pace, caller: str) -> None:
        wait_s = pace.wait_s(caller, time.monotonic())
        if wait_s:
            await asyncio.sleep(REFUSAL_PAUSE_S)
            raise CapacityError(
                f"{caller} calls the orchestrator too often.",
                advice=f"Nodes send one heartbeat in {self._heartbeat_s:g} s; is another process using its keys?",
                retry_after_s=wait_s,
            )

    def _status(self, node: Node, now_s: float) -> pb.NodeStatus:
        return pb.NodeStatus(
            node=node.name,
            role="cloud" if isinstance(node, CloudNode) else "edge",
            model=node.model,
            address=node.address if isinstance(node, CloudNode) else "",
            last_seen_s=self._registry.silent_s(node.name, now_s),
            alive=self._registry.is_alive(node.name, now_s),
        )


def _calls_per_s(heartbeat_s: float) -> float:
    return CALLS_PER_S + CALLS_PER_HEARTBEAT / heartbeat_s


def _node(request: pb.Registration, host: str) -> Node:
    """Returns the node of a registration that was checked."""
    origin = Origin(request.instance, host, request.listen)
    if request.role == "edge":
        limits = limits_from_wire(request.limits)
        profiles = device_profiles_from_wire(request.devices)
        return EdgeNode(request.node, request.model, request.weights_hash, origin, profiles, limits, _kind(request))
    return CloudNode(
        *(request.node, request.model, request.weights_hash, origin, request.address),
        profiles=cloud_profiles_from_wire(request.clouds),
        accuracy=accuracy_from_wire(request.accuracy),
    )


def _kind(request: pb.Registration) -> bytes:
    parts = (
        request.weights_hash.encode(),
        *(profile.SerializeToString(deterministic=True) for profile in request.devices),
        request.limits.SerializeToString(deterministic=True),
    )
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def _host_of(peer: str) -> str:
    """Returns the host in gRPC's name of a connection's other end, `ipv4:10.0.0.7:51234`: every connection has a port of its
    own.
    """
    return peer.partition(":")[2].rpartition(":")[0] or peer
