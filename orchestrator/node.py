"""The orchestrator's process."""

from __future__ import annotations

from pathlib import Path

from orchestrator.servicer import ControlServicer
from orchestrator.settings import CHANGEABLE, OrchestratorSettings
from splitvlm.domain import Plan
from splitvlm.node.collector import freeze_loaded_objects
from splitvlm.node.lifecycle import background, identity_of, print_ready, stop_signals, until
from splitvlm.node.reload import reloading
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import control_pb2, control_pb2_grpc

SERVICE = control_pb2.DESCRIPTOR.services_by_name["Control"].full_name


async def run(settings: OrchestratorSettings, source: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reads `source` again. Raises the errors of configuration, keys and port."""
    identity = identity_of(settings.security)
    server = NodeServer(identity, [SERVICE])
    servicer = ControlServicer(settings.heartbeat_s, accuracy_of(settings), plaintext=identity is None)
    control_pb2_grpc.add_ControlServicer_to_server(servicer, server.grpc)

    def apply(new: OrchestratorSettings) -> None:
        servicer.use(new.heartbeat_s, accuracy_of(new))

    with stop_signals() as stop, reloading(source, settings, CHANGEABLE, apply):
        address = await server.listen(settings.listen)
        async with background(servicer.run()) as tasks:
            freeze_loaded_objects()
            await server.set_ready()
            print_ready("orchestrator", node=settings.node, listen=address)
            await until(stop, tasks)
            servicer.end_streams()
            await server.drain(settings.drain_s)


def accuracy_of(settings: OrchestratorSettings) -> dict[Plan, float]:
    """Returns the accuracy drops that the configuration states, by plan."""
    return {Plan.parse(text): drop for text, drop in settings.accuracy.items()}
