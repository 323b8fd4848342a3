"""The cloud node's side of the control plane: register with its profile, beat with its load."""

from __future__ import annotations

from cloud_node.servicer import DataServicer
from cloud_node.settings import CloudSettings
from cloud_node.worker import Worker
from splitvlm.accuracy import read_accuracy
from splitvlm.planning.costs import CloudProfile
from splitvlm.rpc.plans import accuracy_to_wire, cloud_profile_to_wire
from splitvlm.wire.v1 import control_pb2 as pb


def registration(settings: CloudSettings, address: str, weights_hash: str, profile: CloudProfile) -> pb.Registration:
    drops = read_accuracy(settings.model.name)
    return pb.Registration(
        node=settings.node,
        role="cloud",
        model=settings.model.name,
        weights_hash=weights_hash,
        listen=address,
        address=settings.advertise or address,
        cloud=cloud_profile_to_wire(profile),
        accuracy=[accuracy_to_wire(plan, drop) for plan, drop in drops.items()],
    )


def beat(settings: CloudSettings, servicer: DataServicer, worker: Worker) -> pb.Beat:
    return pb.Beat(
        node=settings.node,
        active_sessions=servicer.active.total(),
        queue_us=int(1e6 * worker.mean_queue_s),
    )
