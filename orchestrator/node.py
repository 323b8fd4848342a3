"""The orchestrator's process."""

from __future__ import annotations

from orchestrator.servicer import ControlServicer
from orchestrator.settings import OrchestratorSettings
from splitvlm.domain import Plan
from splitvlm.errors import ConfigError, UsageError
from splitvlm.rpc.lifecycle import identity_of, print_ready, stop_signals
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import control_pb2, control_pb2_grpc

SERVICE = control_pb2.DESCRIPTOR.services_by_name["Control"].full_name


async def run(settings: OrchestratorSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises the errors of configuration, keys and port."""
    identity = identity_of(settings.security)
    server = NodeServer(identity, [SERVICE])
    servicer = ControlServicer(settings.heartbeat_s, accuracy_of(settings), plaintext=identity is None)
    control_pb2_grpc.add_ControlServicer_to_server(servicer, server.grpc)
    with stop_signals() as stop:
        address = await server.listen(settings.listen)
        await server.set_ready()
        print_ready("orchestrator", node=settings.node, listen=address)
        await stop.wait()
        await server.drain(settings.drain_s)


def accuracy_of(settings: OrchestratorSettings) -> dict[Plan, float]:
    try:
        return {Plan.parse(text): drop for text, drop in settings.accuracy.items()}
    except UsageError as error:
        raise ConfigError(f"accuracy: {error.sentence}", advice=error.advice) from error
