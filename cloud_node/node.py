"""The cloud node's process: load the upper part, measure it, serve devices, tell the orchestrator."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cloud_node.control import beat, check_advertised, registration, tell_profile
from cloud_node.servicer import DataServicer
from cloud_node.settings import CHANGEABLE, CloudSettings
from cloud_node.worker import Worker
from splitvlm.bundle import open_bundle
from splitvlm.domain import DEVICE, Cut
from splitvlm.errors import ConfigError, UsageError
from splitvlm.model.loading import load_cloud, read_spec
from splitvlm.model.spec import ModelSpec
from splitvlm.node.lifecycle import background, end_now, identity_of, print_ready, stop_signals, until
from splitvlm.node.reload import reloading
from splitvlm.profiling.kept_profiles import kept_cloud_profile, renew
from splitvlm.rpc.compatibility import compatibility
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import data_pb2, data_pb2_grpc

SERVICE = data_pb2.DESCRIPTOR.services_by_name["Data"].full_name


async def run(settings: CloudSettings, source: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads `source` again. Raises the errors of configuration, keys, model and port."""
    identity = identity_of(settings.security)
    check_advertised(settings)
    model = settings.model
    spec = read_spec(model.name)
    cuts = served_cuts(settings, spec)
    part = load_cloud(model.name, cuts, device=model.device, dtype=model.dtype, threads=model.threads)
    bundle = open_bundle(model.name, model.bundle)
    codec = bundle.codec
    worker = Worker()
    agreed = compatibility(
        model=spec.name,
        weights_hash=spec.weights_hash,
        processor_hash=spec.processor_hash,
        codec_hash=codec.hash,
        dtype=model.dtype,
    )
    servicer = DataServicer(part, codec, worker, agreed, identity, settings.limits)
    server = NodeServer(identity, [SERVICE])
    data_pb2_grpc.add_DataServicer_to_server(servicer, server.grpc)

    def apply(new: CloudSettings) -> None:
        servicer.use(new.limits)

    with stop_signals() as stop, reloading(source, settings, CHANGEABLE, apply):
        address = await server.listen(settings.listen)
        work, renewal, client = [], [], None
        if settings.orchestrator:
            client = ControlClient(settings.orchestrator, identity)
            known, _ = await worker.run("", kept_cloud_profile, part, cuts, codec, model)
            entry = registration(settings, address, bundle, known.profile)
            work.append(client.stay_registered(entry, lambda: beat(settings, servicer, worker)))
            renewal.append(renew(known, worker, partial(tell_profile, client, entry)))
        try:
            async with background(*renewal), background(*work) as tasks:
                await server.set_ready()
                print_ready("cloud", node=settings.node, listen=address, model=model.name)
                await until(stop, tasks)
                if client is not None:
                    await client.leave(settings.node)
                await server.drain(settings.limits.drain_s)
        finally:
            ended = worker.close()
            if client is not None:
                await client.close()
    if not ended:
        end_now()


def check(settings: CloudSettings) -> None:
    """Raises ConfigError for cuts that the model does not have, UsageError for a bundle that is not the model's or damaged."""
    bundle = open_bundle(settings.model.name, settings.model.bundle)
    served_cuts(settings, bundle.spec)
    _ = bundle.codec, bundle.accuracy


def served_cuts(settings: CloudSettings, spec: ModelSpec) -> tuple[Cut, ...]:
    """The configured cuts, or all of the model's but `device`. Raises ConfigError."""
    wanted = [Cut.parse(text) for text in settings.cuts]
    try:
        for cut in wanted:
            spec.check(cut)
    except UsageError as error:
        raise ConfigError(f"cuts: {error.sentence}", advice=error.advice) from error
    return tuple(wanted or (cut for cut in spec.cuts() if cut != DEVICE))
