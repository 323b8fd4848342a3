"""The edge node's side of the control plane: register, report, follow plan tables. Outlives the orchestrator's absence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import grpc

from edge_node.planner import Planner
from edge_node.runtime import Runtime
from splitvlm.errors import ConfigError, PeerUnavailable, UsageError
from splitvlm.planning.costs import DeviceProfile
from splitvlm.planning.profiles import slowed
from splitvlm.rpc.control_client import ControlClient, retry_s
from splitvlm.rpc.control_messages import check_table
from splitvlm.rpc.plans import limits_to_wire, table_from_wire
from splitvlm.rpc.profiles import device_profile_to_wire
from splitvlm.wire.v1 import control_pb2 as pb

_log = logging.getLogger("splitvlm.edge.control")
REPORT_PERIOD_S = 30.0  # of questions that were answered: an idle device has nothing to report


class EdgeControl:
    """Follows one orchestrator. Nothing here is needed to answer a request once a table is there."""

    def __init__(
        self, client: ControlClient, runtime: Runtime, planner: Planner, registration: pb.Registration
    ) -> None:
        self._client = client
        self._runtime = runtime
        self._planner = planner
        self._registration = registration
        self._warned = ""
        planner.no_table = f"The {client.peer} has sent no plan table yet."

    async def run(self) -> None:
        """Ends by cancellation: nothing that the orchestrator says ends the node."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._client.stay_registered(self._registration, self._beat))
            tasks.create_task(self._watch())
            tasks.create_task(self._report())

    def limits_changed(self) -> None:
        """Tells the orchestrator this node's limits again, for a table that follows them."""
        self._registration.limits.CopyFrom(limits_to_wire(self._runtime.settings.plan_limits()))
        self._client.renew_registration()

    def profile_changed(self, profile: DeviceProfile) -> None:
        """Tells the orchestrator what one form of this device's part costs by a new measurement."""
        slower = slowed(profile, self._runtime.engine.slowdown)
        others = [known for known in self._registration.devices if known.variant != profile.variant]
        del self._registration.devices[:]
        self._registration.devices.extend([*others, device_profile_to_wire(slower)])
        self._client.renew_registration()

    def _beat(self) -> pb.HeartbeatRequest:
        self._runtime.orchestrator_reachable = self._client.reachable
        return pb.HeartbeatRequest(node=self._registration.node)

    async def _watch(self) -> None:
        """Takes each new table between requests; dials again when the stream ends."""
        failures = 0
        while True:
            error = None
            try:
                request = pb.WatchRequest(node=self._registration.node, instance=self._client.instance)
                async for message in self._client.stub.WatchPlans(request):
                    failures = 0
                    self._runtime.orchestrator_reachable = True
                    self.apply(message)
            except grpc.aio.AioRpcError as rpc_error:
                error = self._client.note(rpc_error)
                self._runtime.orchestrator_reachable = self._client.reachable
                self._planner.no_table = str(error)
                self._client.renew_registration()  # one that started again does not know this node
            failures += 1
            await asyncio.sleep(retry_s(failures, error))

    def apply(self, message: pb.PlanTable) -> None:
        """Uses a table, or changes nothing where any part of it is wrong."""
        try:
            check_table(message)
            table = table_from_wire(message)
            self._planner.check_table(table)
        except UsageError as error:
            self._warn_once(f"A plan table of the {self._client.peer} is refused: {error}")
            return
        if addresses := self._clouds_of(message):
            self._runtime.clouds.use(addresses)
        self._planner.notice = message.notice
        if message.notice:
            self._warn_once(f"The {self._client.peer}: {message.notice}")
        if table.lines:
            self._planner.table = table
            _log.info("plan table", extra={"version": table.version, "plans": [str(line.plan) for line in table.lines]})
        else:
            self._planner.no_table = f"The {self._client.peer} has no plan for this node: {message.problem}"
            self._warn_once(self._planner.no_table)

    def _clouds_of(self, message: pb.PlanTable) -> list[str]:
        """Returns the cloud nodes to dial from now on, the first while it answers. Empty leaves them as they are."""
        settings = self._runtime.settings
        offered = [message.cloud_address, *message.standby] if message.cloud_address else []
        if settings.cloud and not settings.accept_standby:
            offered = []
        usable = [address for address in offered if self._may_dial(address)]
        if settings.cloud:
            return [settings.cloud, *settings.standby, *usable]
        return [usable[0], *settings.standby, *usable[1:]] if usable else []

    def _may_dial(self, address: str) -> bool:
        """Returns whether this node's own rules let it dial an address that came over the network."""
        try:
            self._runtime.clouds.require_dialable(address)
        except ConfigError as error:
            self._warn_once(f"The {self._client.peer} names a cloud node that is not dialled: {error}")
            return False
        return True

    def _warn_once(self, sentence: str) -> None:
        """Logs what was not logged last: tables come again and again."""
        if sentence != self._warned:
            self._warned = sentence
            _log.warning("%s", sentence)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_PERIOD_S)
            link = self._runtime.clouds.link
            if link is None or not (counts := self._runtime.take_counts()):
                continue
            estimate = link.estimate()
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


def registration(
    runtime: Runtime, listen: str, weights_hash: str, profiles: Sequence[DeviceProfile]
) -> pb.Registration:
    """Returns what this node tells the orchestrator of itself: its model, its address and its measured profiles."""
    settings = runtime.settings
    return pb.Registration(
        node=settings.node,
        role="edge",
        model=settings.model.name,
        weights_hash=weights_hash,
        listen=listen,
        devices=map(device_profile_to_wire, profiles),
        limits=limits_to_wire(settings.plan_limits()),
    )
