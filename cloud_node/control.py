"""The cloud node's side of the control plane: register with its profile, beat with its load."""

from __future__ import annotations

import logging

from cloud_node.servicer import DataServicer
from cloud_node.settings import CloudSettings
from cloud_node.worker import Worker
from splitvlm.bundle import Bundle
from splitvlm.errors import ConfigError, UsageError
from splitvlm.planning.costs import CloudProfile
from splitvlm.rpc.addresses import is_loopback, is_wildcard, require_dialable
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.plans import accuracy_to_wire, cloud_profile_to_wire
from splitvlm.settings import host_and_port
from splitvlm.wire.v1 import control_pb2 as pb

_log = logging.getLogger("splitvlm.cloud.control")


def check_advertised(settings: CloudSettings) -> None:
    """Raises ConfigError where devices could not dial what the orchestrator would tell them."""
    if settings.orchestrator is None:
        return
    if settings.advertise is not None:
        try:
            require_dialable(settings.advertise)
        except UsageError as error:
            raise ConfigError(f"advertise: {error.sentence}", advice=error.advice) from error
    elif is_wildcard(host_and_port(settings.listen)[0]):
        raise ConfigError(
            f"listen is {settings.listen}, every address of this machine, and advertise is missing: devices could not dial it.",
            advice="Set `advertise` to the host:port by which devices reach this node.",
        )
    told = settings.advertise or settings.listen
    if _is_local(told) and not _is_local(settings.orchestrator):
        _log.warning("devices on other machines cannot dial %s: set `advertise`", told)


def _is_local(address: str) -> bool:
    return is_loopback(host_and_port(address)[0])


def registration(settings: CloudSettings, address: str, bundle: Bundle, profile: CloudProfile) -> pb.Registration:
    return pb.Registration(
        node=settings.node,
        role="cloud",
        model=settings.model.name,
        weights_hash=bundle.spec.weights_hash,
        listen=address,
        address=settings.advertise or address,
        cloud=cloud_profile_to_wire(profile),
        accuracy=[accuracy_to_wire(plan, drop) for plan, drop in bundle.accuracy.items()],
    )


def tell_profile(client: ControlClient, entry: pb.Registration, profile: CloudProfile) -> None:
    """Tell the orchestrator what this node costs by a new measurement."""
    entry.cloud.CopyFrom(cloud_profile_to_wire(profile))
    client.register_again()


def beat(settings: CloudSettings, servicer: DataServicer, worker: Worker) -> pb.HeartbeatRequest:
    return pb.HeartbeatRequest(
        node=settings.node,
        active_sessions=servicer.active.total(),
        queue_us=int(1e6 * worker.mean_queue_s),
    )
