"""The edge node's process: load the lower part, measure it, listen for applications, follow the orchestrator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from edge_node.answering.answerer import Answerer
from edge_node.audit import AuditLog
from edge_node.cloud.fleet import CloudFleet, Dialling
from edge_node.control import EdgeControl, registration
from edge_node.engine import DeviceEngine
from edge_node.local.servicer import LocalServicer
from edge_node.planner import Planner
from edge_node.privacy import PrivacyDoor
from edge_node.runtime import Runtime
from edge_node.settings import CHANGEABLE, EdgeSettings
from splitvlm.bundle import Bundle, open_bundle
from splitvlm.bundle.leaks import leaks_of
from splitvlm.codec.codec import Codec
from splitvlm.crypto.identity import Identity
from splitvlm.domain import DEVICE, Cut, Plan
from splitvlm.errors import ConfigError, SplitvlmError, UsageError
from splitvlm.model.dtype_choice import with_dtype
from splitvlm.model.loading import load_device
from splitvlm.model.spec import ModelSpec
from splitvlm.model.threads import in_passing_thread
from splitvlm.node.lifecycle import background, end_now, identity_of, print_ready, stop_signals, until
from splitvlm.node.reload import reloading
from splitvlm.planning.profiles import slowed
from splitvlm.profiling.cached_profiles import cached_device_profile, renew
from splitvlm.rpc.compatibility import compatibility
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.limits import MAX_LOCAL_MESSAGE_BYTES
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import data_pb2, local_pb2, local_pb2_grpc

_log = logging.getLogger("splitvlm.edge")
OTHER_CALLS = 16  # of status and health, beside questions
SERVICE = local_pb2.DESCRIPTOR.services_by_name["Local"].full_name


async def run(settings: EdgeSettings, source: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reads `source` again. Raises the errors of configuration, keys, model and port."""
    identity = identity_of(settings.security)
    from_file, settings = settings, with_dtype(settings)
    bundle = open_bundle(settings.model.name, settings.model.bundle)
    privacy, cuts, planner = _planned(settings, bundle)
    runtime = _loaded(settings, bundle, cuts, identity, privacy)
    runtime.clouds.deciding_bps = planner.deciding_bps
    engine = runtime.engine
    server = _server(settings, identity, runtime, planner)
    with stop_signals() as stop:
        address = await server.listen(settings.listen)
        if settings.cloud:
            runtime.clouds.use([settings.cloud, *settings.standby])
        work, renewal, client, control = [], [], None, None
        if settings.orchestrator:
            client = ControlClient(settings.orchestrator, identity)
            known = cached_device_profile(engine.part, cuts, bundle, settings.model)
            entry = registration(
                runtime, address, engine.part.spec.weights_hash, slowed(known.profile, engine.slowdown)
            )
            control = EdgeControl(client, runtime, planner, entry)
            work.append(control.run())
            renewal.append(renew(known, engine, control.profile_changed))

        def apply(new: EdgeSettings) -> None:
            take_settings(new, cuts, runtime, planner)
            if control is not None:
                control.limits_changed()

        try:
            with reloading(source, from_file, CHANGEABLE, apply):
                async with background(*renewal), background(*work) as tasks:
                    await server.set_ready()
                    print_ready("edge", node=settings.node, listen=address, **_ready_facts(settings))
                    await until(stop, tasks)
                    if client is not None:
                        await client.leave(settings.node)
                    await server.drain(settings.drain_s)
        finally:
            ended = await runtime.close()
            if client is not None:
                await client.close()
    if not ended:
        end_now()


def check(settings: EdgeSettings) -> None:
    """Raises ConfigError, UsageError or PrivacyRefused for cuts, levels and plans that the model or the limits do not have."""
    _planned(with_dtype(settings), open_bundle(settings.model.name, settings.model.bundle))


def _planned(settings: EdgeSettings, bundle: Bundle) -> tuple[PrivacyDoor, tuple[Cut, ...], Planner]:
    privacy = PrivacyDoor(settings.privacy, leaks_at(bundle))
    cuts = allowed_cuts(settings, bundle.spec, bundle.codec, privacy)
    return privacy, cuts, Planner(settings.planning, cuts, bundle.codec, privacy)


def _loaded(
    settings: EdgeSettings, bundle: Bundle, cuts: tuple[Cut, ...], identity: Identity | None, privacy: PrivacyDoor
) -> Runtime:
    """Loads the device's part of the model for the cuts, and dials nobody yet. Raises the errors of the model."""
    model = settings.model
    part = in_passing_thread(
        lambda: load_device(model.name, cuts, device=model.device, dtype=model.dtype, threads=model.threads)
    )
    engine = DeviceEngine(part, bundle.codec, settings.emulation.slowdown)
    compatible = compatibility_of(bundle.spec, bundle.codec, model.dtype)
    dialling = Dialling(compatible, identity, [str(cut) for cut in cuts])
    return Runtime(settings, engine, privacy, CloudFleet(dialling, privacy))


def _server(settings: EdgeSettings, identity: Identity | None, runtime: Runtime, planner: Planner) -> NodeServer:
    """Returns the server for applications, not listening yet. Raises ConfigError where the audit log cannot be written."""
    audit_log, most_bytes = settings.privacy.audit_log, settings.privacy.audit_log_bytes
    audit = AuditLog(audit_log, most_bytes) if audit_log is not None else None
    answerer = Answerer(runtime, planner, audit)
    servicer = LocalServicer(answerer, runtime, planner, plaintext=identity is None)
    most_calls = settings.limits.questions + OTHER_CALLS
    server = NodeServer(identity, [SERVICE], MAX_LOCAL_MESSAGE_BYTES, most_calls)
    local_pb2_grpc.add_LocalServicer_to_server(servicer, server.grpc)
    return server


def take_settings(new: EdgeSettings, cuts: Sequence[Cut], runtime: Runtime, planner: Planner) -> None:
    """Takes other settings, while the node runs. Raises a SplitvlmError and leaves all as it was where they do not fit."""
    _check_alone(new, cuts)
    runtime.privacy.use(new.privacy)
    try:
        planner.use(new.planning)
    except SplitvlmError:
        runtime.privacy.use(runtime.settings.privacy)
        raise
    runtime.settings = new
    runtime.clouds.follow_privacy()


def leaks_at(bundle: Bundle) -> dict[Plan, float]:
    """Returns what each plan of the model leaks, where the device's own bundle says so."""
    plans = [Plan(cut, level) for cut in bundle.spec.cuts() if cut != DEVICE for level in bundle.codec.levels(cut)]
    return leaks_of(plans, bundle.leaks)


def allowed_cuts(settings: EdgeSettings, spec: ModelSpec, codec: Codec, privacy: PrivacyDoor) -> tuple[Cut, ...]:
    """Returns the cuts that the configuration allows, the model has and the memory limit admits. Raises ConfigError."""
    planning = settings.planning
    if planning.fixed_plan and not planning.cuts:
        wanted = [Plan.parse(planning.fixed_plan).cut]
    else:
        wanted = [Cut.parse(text) for text in planning.cuts] or list(spec.cuts())
    try:
        for cut in wanted:
            spec.check(cut)
    except UsageError as error:
        key = "cuts" if planning.cuts else "fixed_plan"
        raise ConfigError(f"planning.{key}: {error.sentence}", advice=error.advice) from error
    _check_alone(settings, wanted)
    private = [
        cut for cut in wanted if cut == DEVICE or any(privacy.allows(Plan(cut, level)) for level in codec.levels(cut))
    ]
    if not private:
        raise ConfigError(
            f"privacy.max_leak is {settings.privacy.max_leak:g}, and every level of the cuts that planning allows leaks more, "
            "or was not measured.",
            advice=f"`splitvlm leak {spec.name}` measures it, into the model's bundle; or allow the cut device.",
        )
    return _fitting(settings, spec, private)


def _check_alone(settings: EdgeSettings, cuts: Sequence[Cut]) -> None:
    """Raises ConfigError where nothing may leave and the device cannot answer by itself."""
    if settings.privacy.mode == "device_only" and DEVICE not in cuts:
        raise ConfigError(
            "privacy.mode is device_only, but this node does not serve the cut device: planning.cuts, planning.fixed_plan or "
            "planning.device_memory_bytes forbid it.",
            advice="Allow the cut device, and start the node again.",
        )


def _fitting(settings: EdgeSettings, spec: ModelSpec, wanted: list[Cut]) -> tuple[Cut, ...]:
    """Returns those of the cuts that planning.device_memory_bytes has room for. Raises ConfigError where it has none."""
    memory = settings.planning.device_memory_bytes
    if settings.privacy.mode == "device_only":
        wanted = [DEVICE]
    needs = {cut: spec.device_memory_bytes(cut, settings.model.dtype) for cut in wanted}
    fitting = [cut for cut in wanted if memory is None or needs[cut] <= memory]
    if not fitting:
        least = min(needs, key=lambda cut: needs[cut])
        raise ConfigError(
            f"planning.device_memory_bytes is {memory}, but the smallest allowed cut, {least}, needs {needs[least]} bytes.",
            advice="Raise it, or allow a cut that needs less.",
        )
    return tuple(fitting)


def compatibility_of(spec: ModelSpec, codec: Codec, dtype: str) -> data_pb2.Compatibility:
    """Returns the hashes by which a cloud node sees that it runs the other part of this very model and codec."""
    return compatibility(
        model=spec.name,
        weights_hash=spec.weights_hash,
        processor_hash=spec.processor_hash,
        codec_hash=codec.hash,
        dtype=dtype,
    )


def _ready_facts(settings: EdgeSettings) -> dict[str, object]:
    """Returns what the ready line says beside the address; an emulated slow-down only where one is configured."""
    slowdown = settings.emulation.slowdown
    emulated = {} if slowdown == 1 else {"emulated_slowdown": slowdown}
    return {"model": settings.model.name, **emulated}
