"""The cloud node's process: load the upper part, measure it, serve devices, tell the orchestrator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from cloud_node.control import Membership, check_advertised, heartbeat, registration
from cloud_node.frontend.servicer import SERVICE, DataServicer
from cloud_node.pools.local import LocalPool
from cloud_node.settings import CHANGEABLE, CloudSettings
from cloud_node.worker.worker import EngineWorker
from splitvlm.bundle import Bundle, open_bundle
from splitvlm.crypto.identity import Identity
from splitvlm.domain import Cut, CutKind
from splitvlm.errors import ConfigError, UsageError
from splitvlm.model.loading import load_cloud, read_spec
from splitvlm.model.spec import ModelSpec
from splitvlm.node.lifecycle import background, end_now, identity_of, print_ready, stop_signals, until
from splitvlm.node.reload import reloading
from splitvlm.profiling.kept_profiles import kept_cloud_profile
from splitvlm.rpc.compatibility import compatibility
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1.control_pb2 import HeartbeatRequest


async def run(settings: CloudSettings, source: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reads `source` again. Raises the errors of configuration, keys, model and port."""
    identity = identity_of(settings.security)
    check_advertised(settings)
    bundle = open_bundle(settings.model.name, settings.model.bundle)
    worker = load_worker(settings, bundle, identity)
    pool = LocalPool(worker)
    servicer = DataServicer(pool, settings.limits, plaintext=identity is None)
    server = NodeServer(identity, [SERVICE])
    server.grpc.add_generic_rpc_handlers((servicer.handler(),))

    def apply(new: CloudSettings) -> None:
        servicer.use(new.limits)

    with stop_signals() as stop, reloading(source, settings, CHANGEABLE, apply):
        address = await server.listen(settings.listen)
        load = partial(heartbeat, settings, servicer, pool)
        member = await _join(settings, identity, bundle, address, worker, load) if settings.orchestrator else None
        try:
            async with background(*([member.stay()] if member else [])) as tasks:
                await server.set_ready()
                print_ready("cloud", node=settings.node, listen=address, model=settings.model.name)
                await until(stop, tasks)
                if member is not None:
                    await member.leave()
                await server.drain(settings.limits.drain_s)
        finally:
            ended = pool.close()
            if member is not None:
                await member.close()
    if not ended:
        end_now()


def load_worker(settings: CloudSettings, bundle: Bundle, identity: Identity | None) -> EngineWorker:
    """Returns a worker in this process, with the model that the settings name. Raises ConfigError and errors of models."""
    model = settings.model
    spec = read_spec(model.name)
    cuts = served_cuts(settings, spec)
    part = load_cloud(model.name, cuts, device=model.device, dtype=model.dtype, threads=model.threads)
    agreed = compatibility(
        model=spec.name,
        weights_hash=spec.weights_hash,
        processor_hash=spec.processor_hash,
        codec_hash=bundle.codec.hash,
        dtype=model.dtype,
    )
    return EngineWorker(part, bundle.codec, agreed, identity, settings.limits, settings.engine)


async def _join(
    settings: CloudSettings,
    identity: Identity | None,
    bundle: Bundle,
    address: str,
    worker: EngineWorker,
    load: Callable[[], HeartbeatRequest],
) -> Membership:
    """Measures the worker, unless it was measured before, and makes ready to tell the orchestrator."""
    assert settings.orchestrator is not None
    part = worker.runtime.part
    client = ControlClient(settings.orchestrator, identity)
    cuts = served_cuts(settings, part.spec)
    known = await worker.measure(partial(kept_cloud_profile, part, cuts, bundle.codec, settings.model))
    entry = registration(settings, address, bundle, known.profile)
    return Membership(client, entry, known, worker, load)


def check(settings: CloudSettings) -> None:
    """Raises ConfigError for cuts that the model does not have, UsageError for a bundle that is not the model's or damaged."""
    bundle = open_bundle(settings.model.name, settings.model.bundle)
    served_cuts(settings, bundle.spec)
    _ = bundle.codec, bundle.accuracy


def served_cuts(settings: CloudSettings, spec: ModelSpec) -> tuple[Cut, ...]:
    """Returns the configured cuts, or all of the model's but `device`. Raises ConfigError."""
    wanted = [Cut.parse(text) for text in settings.cuts]
    try:
        for cut in wanted:
            spec.check(cut)
    except UsageError as error:
        raise ConfigError(f"cuts: {error.sentence}", advice=error.advice) from error
    unserved = {CutKind.DEVICE} | ({CutKind.LM} if settings.engine == "vllm" else set())
    if refused := [cut for cut in wanted if cut.kind in unserved - {CutKind.DEVICE}]:
        raise ConfigError(
            f"cuts: the engine vllm does not serve {refused[0]}.", advice="It serves image, vision:k and tokens."
        )
    return tuple(wanted or (cut for cut in spec.cuts() if cut.kind not in unserved))
