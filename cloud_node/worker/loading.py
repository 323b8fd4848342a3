"""A worker is loaded and measured here, in whichever process it runs: this process or an actor of Ray."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from cloud_node.settings import CloudSettings
from cloud_node.worker.worker import EngineWorker
from splitvlm.bundle import open_bundle
from splitvlm.crypto.identity import Identity
from splitvlm.domain import Cut, CutKind
from splitvlm.errors import ConfigError, UsageError
from splitvlm.model.loading import load_cloud
from splitvlm.model.spec import ModelSpec
from splitvlm.model.threads import in_passing_thread
from splitvlm.planning.costs import CloudProfile
from splitvlm.profiling.cached_profiles import CachedProfile, cached_cloud_profile
from splitvlm.rpc.compatibility import compatibility
from splitvlm.rpc.profiles import accuracy_to_wire, cloud_profile_to_wire
from splitvlm.variants.folder import Variant, read_variants
from splitvlm.wire.v1.control_pb2 import Registration


class WorkerOffer(NamedTuple):
    """Holds what a worker serves and costs."""

    offer: Registration  # without the node's name and addresses, which are the front end's
    profile: CachedProfile[CloudProfile]


def load_worker(settings: CloudSettings, identity: Identity | None) -> EngineWorker:
    """Returns a worker in this process, with the model that the settings name. Raises ConfigError and errors of models."""
    model = settings.model
    bundle = open_bundle(model.name, model.bundle)
    spec = bundle.spec
    cuts = served_cuts(settings, spec)
    variants = served_variants(settings, spec)
    part = in_passing_thread(
        lambda: load_cloud(
            model.name,
            cuts,
            device=model.device,
            dtype=model.dtype,
            threads=model.threads,
            packed=settings.engine == "torch",  # vllm reads the weights
        )
    )
    agreed = compatibility(
        model=spec.name,
        weights_hash=spec.weights_hash,
        processor_hash=spec.processor_hash,
        codec_hash=bundle.codec.hash,
        dtype=model.dtype,
        variants={variant.name: variant.hash for variant in variants},
    )
    codecs = {variant.name: variant.codec(bundle) for variant in variants}
    return EngineWorker(part, bundle.codec, agreed, identity, settings.limits, settings.engine, codecs)


async def measured_offer(worker: EngineWorker, settings: CloudSettings) -> WorkerOffer:
    """Returns what the worker serves and costs: it is measured, unless it was before on this machine."""
    part, codec, model = worker.runtime.part, worker.runtime.codec, settings.model
    bundle, cuts = open_bundle(model.name, model.bundle), served_cuts(settings, part.spec)
    variants = served_variants(settings, part.spec)
    names = [variant.name for variant in variants]
    profile = await worker.measure(partial(cached_cloud_profile, part, cuts, codec, model, names))
    accuracy = dict(bundle.accuracy)
    for variant in variants:
        accuracy |= variant.accuracy(bundle)
    offer = Registration(
        model=model.name,
        weights_hash=part.spec.weights_hash,
        clouds=[cloud_profile_to_wire(profile.profile)],
        accuracy=accuracy_to_wire(accuracy),
    )
    return WorkerOffer(offer, profile)


def check(settings: CloudSettings) -> None:
    """Raises ConfigError for cuts that the model does not have, and for variants that are not its own or damaged.

    Raises UsageError for a bundle that is not the model's or damaged.
    """
    bundle = open_bundle(settings.model.name, settings.model.bundle)
    served_cuts(settings, bundle.spec)
    _ = bundle.codec, bundle.accuracy
    for variant in served_variants(settings, bundle.spec):
        _ = variant.codec(bundle), variant.accuracy(bundle)


def served_variants(settings: CloudSettings, spec: ModelSpec) -> tuple[Variant, ...]:
    """Returns the devices' forms that the node serves; their weights need not be here. Raises ConfigError."""
    try:
        return read_variants(settings.variants, spec, with_weights=False)
    except UsageError as error:
        raise ConfigError(f"variants: {error.sentence}", advice=error.advice) from error


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
