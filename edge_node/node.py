"""The edge node's process: load the lower part, measure it, listen for applications, follow the orchestrator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_node.answering.answerer import Answerer
from edge_node.audit import AuditLog
from edge_node.cloud.fleet import CloudFleet, Dialling
from edge_node.control import EdgeControl, registration
from edge_node.engine import DeviceEngine
from edge_node.local.http.access import access_of
from edge_node.local.servicer import LocalServicer
from edge_node.planner import Planner
from edge_node.privacy import PrivacyDoor
from edge_node.runtime import Runtime
from edge_node.served import ServedForm, check_alone, leaks_at, opened_variants, served_forms
from edge_node.settings import CHANGEABLE, EdgeSettings
from splitvlm.bundle import Bundle, open_bundle
from splitvlm.codec.codec import Codec
from splitvlm.crypto.identity import Identity
from splitvlm.domain import FULL, Cut
from splitvlm.errors import SplitvlmError
from splitvlm.model.dtype_choice import with_dtype
from splitvlm.model.spec import ModelSpec
from splitvlm.model.threads import in_passing_thread
from splitvlm.node.collector import freeze_loaded_objects
from splitvlm.node.lifecycle import background, end_now, identity_of, print_ready, stop_signals, until
from splitvlm.node.reload import reloading
from splitvlm.planning.costs import DeviceProfile
from splitvlm.planning.profiles import slowed
from splitvlm.profiling.cached_profiles import CachedProfile, cached_device_profile, renew
from splitvlm.rpc.compatibility import compatibility
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.limits import MAX_LOCAL_MESSAGE_BYTES
from splitvlm.rpc.servers import NodeServer
from splitvlm.variants.device_forms import load_forms
from splitvlm.variants.folder import Variant
from splitvlm.wire.v1 import control_pb2, data_pb2, local_pb2, local_pb2_grpc

if TYPE_CHECKING:
    from edge_node.local.http.server import HttpServer

_log = logging.getLogger("splitvlm.edge")
OTHER_CALLS = 16  # of status and health, beside questions
Forms = Mapping[str, ServedForm]
SERVICE = local_pb2.DESCRIPTOR.services_by_name["Local"].full_name


async def run(settings: EdgeSettings, source: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reads `source` again. Raises the errors of configuration, keys, model and port."""
    identity = identity_of(settings.security)
    from_file, settings = settings, with_dtype(settings)
    bundle = open_bundle(settings.model.name, settings.model.bundle)
    privacy, forms, planner = _planned(settings, bundle)
    runtime = _loaded(settings, bundle, forms, identity, privacy)
    runtime.clouds.deciding_bps = planner.deciding_bps
    engine = runtime.engine
    answerer = _answerer(settings, runtime, planner)
    server, http = _server(settings, identity, runtime, planner, answerer), _http_server(answerer, runtime)
    with stop_signals() as stop:
        address = await server.listen(settings.listen)
        urls = {} if http is None else {"http": await http.listen()}
        if settings.cloud:
            runtime.clouds.use([settings.cloud, *settings.standby])
        work, renewal, client, control = [], [], None, None
        if settings.orchestrator:
            client = ControlClient(settings.orchestrator, identity)
            known = [_profiled(engine, form, bundle, settings) for form in forms.values() if form.cuts]
            control = EdgeControl(client, runtime, planner, _entry(runtime, address, known))
            work.append(control.run())
            renewal.append(_renewed(known, engine, control))

        def apply(new: EdgeSettings) -> None:
            take_settings(new, planner.cuts, runtime, planner)
            if control is not None:
                control.limits_changed()

        try:
            with reloading(source, from_file, CHANGEABLE, apply):
                async with background(*renewal), background(*work) as tasks:
                    freeze_loaded_objects()
                    await server.set_ready()
                    print_ready("edge", node=settings.node, listen=address, **urls, **_ready_facts(settings))
                    await until(stop, tasks)
                    if client is not None:
                        await client.leave(settings.node)
                    await asyncio.gather(server.drain(settings.drain_s), *([http.drain()] if http else []))
        finally:
            ended = await runtime.close()
            if client is not None:
                await client.close()
    if not ended:
        end_now()


def check(settings: EdgeSettings) -> None:
    """Raises ConfigError, UsageError or PrivacyRefused for cuts, levels and plans that the model or the limits do not have."""
    _planned(with_dtype(settings), open_bundle(settings.model.name, settings.model.bundle))
    access_of(settings)


def _planned(settings: EdgeSettings, bundle: Bundle) -> tuple[PrivacyDoor, Forms, Planner]:
    variants = opened_variants(settings, bundle.spec)
    privacy = PrivacyDoor(settings.privacy, leaks_at(bundle, variants))
    forms = served_forms(settings, bundle, variants, privacy)
    own, *others = forms.values()
    return privacy, forms, Planner(settings.planning, own.cuts, own.codec, privacy, others)


def _loaded(
    settings: EdgeSettings, bundle: Bundle, forms: Forms, identity: Identity | None, privacy: PrivacyDoor
) -> Runtime:
    """Loads the device's part of the model in these forms, and dials nobody yet. Raises the errors of the model."""
    variants = [form.variant for form in forms.values() if form.variant is not None]
    cuts = {name: form.cuts for name, form in forms.items()}
    memory = settings.planning.device_memory_bytes
    loaded = in_passing_thread(lambda: load_forms(settings.model, cuts, bundle, variants, memory))
    own = loaded.pop(FULL)
    engine = DeviceEngine(own.part, own.codec, settings.emulation.slowdown, loaded)
    compatible = compatibility_of(bundle.spec, bundle.codec, settings.model.dtype, variants)
    served = sorted({cut for form in forms.values() for cut in form.cuts}, key=lambda cut: cut.depth)
    dialling = Dialling(compatible, identity, [str(cut) for cut in served])
    return Runtime(settings, engine, privacy, CloudFleet(dialling, privacy))


def _profiled(
    engine: DeviceEngine, form: ServedForm, bundle: Bundle, settings: EdgeSettings
) -> CachedProfile[DeviceProfile]:
    """Returns the profile of one form of this device's part, measured unless it was before."""
    part = engine.form(form.name).part
    return cached_device_profile(part, form.cuts, bundle, settings.model, form.variant)


def _entry(runtime: Runtime, address: str, known: Sequence[CachedProfile[DeviceProfile]]) -> control_pb2.Registration:
    """Returns what the orchestrator is told of this device: its forms' profiles, slowed down as it is."""
    engine = runtime.engine
    profiles = [slowed(each.profile, engine.slowdown) for each in known]
    return registration(runtime, address, engine.part.spec.weights_hash, profiles)


async def _renewed(known: Sequence[CachedProfile[DeviceProfile]], engine: DeviceEngine, control: EdgeControl) -> None:
    """Measures each form's profile anew, one after another: each waits for quiet, and would be the other's noise."""
    for profile in known:
        await renew(profile, engine, control.profile_changed)


def _answerer(settings: EdgeSettings, runtime: Runtime, planner: Planner) -> Answerer:
    """Returns what answers behind every port. Raises ConfigError where the audit log cannot be written."""
    audit_log, most_bytes = settings.privacy.audit_log, settings.privacy.audit_log_bytes
    return Answerer(runtime, planner, AuditLog(audit_log, most_bytes) if audit_log is not None else None)


def _http_server(answerer: Answerer, runtime: Runtime) -> HttpServer | None:
    """Returns the HTTP server, not listening yet; None where none is configured, which needs no HTTP library."""
    if runtime.settings.http.listen is None:
        return None
    from edge_node.local.http.serving import http_server

    return http_server(answerer, runtime)


def _server(
    settings: EdgeSettings, identity: Identity | None, runtime: Runtime, planner: Planner, answerer: Answerer
) -> NodeServer:
    """Returns the gRPC server for applications, not listening yet."""
    servicer = LocalServicer(answerer, runtime, planner, plaintext=identity is None)
    most_calls = settings.limits.questions + OTHER_CALLS
    server = NodeServer(identity, [SERVICE], MAX_LOCAL_MESSAGE_BYTES, most_calls)
    local_pb2_grpc.add_LocalServicer_to_server(servicer, server.grpc)
    return server


def take_settings(new: EdgeSettings, cuts: Sequence[Cut], runtime: Runtime, planner: Planner) -> None:
    """Takes other settings, while the node runs. Raises a SplitvlmError and leaves all as it was where they do not fit."""
    check_alone(new, cuts)
    runtime.privacy.use(new.privacy)
    try:
        planner.use(new.planning)
    except SplitvlmError:
        runtime.privacy.use(runtime.settings.privacy)
        raise
    runtime.settings = new
    runtime.clouds.follow_privacy()


def compatibility_of(
    spec: ModelSpec, codec: Codec, dtype: str, variants: Sequence[Variant] = ()
) -> data_pb2.Compatibility:
    """Returns the hashes by which a cloud node sees that it runs the other part of this very model, codec and variants."""
    return compatibility(
        model=spec.name,
        weights_hash=spec.weights_hash,
        processor_hash=spec.processor_hash,
        codec_hash=codec.hash,
        dtype=dtype,
        variants={variant.name: variant.hash for variant in variants},
    )


def _ready_facts(settings: EdgeSettings) -> dict[str, object]:
    """Returns what the ready line says beside the address; an emulated slow-down only where one is configured."""
    slowdown = settings.emulation.slowdown
    emulated = {} if slowdown == 1 else {"emulated_slowdown": slowdown}
    return {"model": settings.model.name, **emulated}
