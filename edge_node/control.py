"""The edge node's side of the control plane: register, report, follow plan tables. Outlives the orchestrator's absence."""

from __future__ import annotations

import asyncio
import logging

import grpc

from edge_node.planner import Planner
from edge_node.runtime import Runtime
from splitvlm.errors import PeerUnavailable, SplitvlmError
from splitvlm.planning.costs import DeviceProfile
from splitvlm.rpc.control import ControlClient
from splitvlm.rpc.plans import device_profile_to_wire, limits_to_wire, table_from_wire
from splitvlm.wire.v1 import control_pb2 as pb

_log = logging.getLogger("splitvlm.edge.control")
REPORT_PERIOD_S = 5.0
WATCH_RETRY_S = 1.0


class EdgeControl:
    """Follows one orchestrator. Nothing here is needed to answer a request once a table is there."""

    def __init__(
        self, client: ControlClient, runtime: Runtime, planner: Planner, registration: pb.Registration
    ) -> None:
        self._client = client
        self._runtime = runtime
        self._planner = planner
        self._registration = registration

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._client.stay_registered(self._registration, self._beat))
            tasks.create_task(self._watch())
            tasks.create_task(self._report())

    def limits_changed(self) -> None:
        """Tell the orchestrator this node's limits again, for a table that follows them."""
        self._registration.limits.CopyFrom(limits_to_wire(self._runtime.settings.planning.limits()))
        self._client.register_again()

    def _beat(self) -> pb.Beat:
        self._runtime.orchestrator_reachable = self._client.reachable
        return pb.Beat(node=self._registration.node)

    async def _watch(self) -> None:
        """Take each new table between requests; dial again when the stream ends."""
        while True:
            try:
                async for message in self._client.stub.WatchPlans(pb.WatchRequest(node=self._registration.node)):
                    self._runtime.orchestrator_reachable = True
                    self._apply(message)
            except grpc.aio.AioRpcError as error:
                self._runtime.orchestrator_reachable = False
                _log.info("plan stream ended: %s", error.code().name)
            await asyncio.sleep(WATCH_RETRY_S)

    def _apply(self, message: pb.PlanTable) -> None:
        try:
            table = table_from_wire(message)
        except SplitvlmError as error:
            _log.warning("plan table refused: %s", error)
            return
        settings = self._runtime.settings
        address = settings.cloud or message.cloud_address
        if address:
            self._runtime.use_clouds([address, *settings.standby, *message.standby])
        if table.lines:
            self._planner.table = table
        _log.info("plan table", extra={"version": table.version, "plans": [str(line.plan) for line in table.lines]})

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_PERIOD_S)
            if self._runtime.link is None:
                continue
            estimate, counts = self._runtime.link.estimate(), self._runtime.take_counts()
            report = pb.LinkReport(
                node=self._registration.node,
                uplink_bps=estimate.uplink_bps,
                rtt_s=estimate.rtt_s,
                spread=estimate.spread,
                requests=sum(counts.values()),
                plans=[pb.PlanUse(plan=plan, requests=number) for plan, number in counts.items()],
            )
            try:
                await self._client.report(report)
            except PeerUnavailable:
                self._runtime.orchestrator_reachable = False


def registration(runtime: Runtime, weights_hash: str, profile: DeviceProfile) -> pb.Registration:
    settings = runtime.settings
    return pb.Registration(
        node=settings.node,
        role="edge",
        model=settings.model.name,
        weights_hash=weights_hash,
        device=device_profile_to_wire(profile),
        limits=limits_to_wire(settings.planning.limits()),
    )
