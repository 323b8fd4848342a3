"""Says which cuts a node serves in which form: what its configuration allows, the model has, and its memory has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_node.privacy import PrivacyDoor
from edge_node.settings import EdgeSettings
from splitvlm.bundle import Bundle
from splitvlm.bundle.leaks import leaks_of
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, FULL, Cut, Plan
from splitvlm.errors import ConfigError, UsageError
from splitvlm.model.spec import ModelSpec
from splitvlm.variants.folder import Variant, memory_of, read_variants


@dataclass(frozen=True)
class ServedForm:
    """Holds one form of the device's part as a planner knows it."""

    cuts: tuple[Cut, ...]
    codec: Codec
    variant: Variant | None = None  # None: the model's own

    @property
    def name(self) -> str:
        """Returns the variant's name in plans."""
        return FULL if self.variant is None else self.variant.name

    def memory_bytes(self, spec: ModelSpec, cut: Cut, dtype: str) -> int:
        """Returns the memory that a cut takes by itself: weights, a request's cache, and a bound on its activations."""
        return memory_of(self.variant, spec, cut, dtype)


def opened_variants(settings: EdgeSettings, spec: ModelSpec) -> tuple[Variant, ...]:
    """Returns the variants that the configuration names. Raises ConfigError for those that cannot be used."""
    try:
        return read_variants(settings.variants, spec)
    except UsageError as error:
        raise ConfigError(f"variants: {error.sentence}", advice=error.advice) from error


def leaks_at(bundle: Bundle, variants: Sequence[Variant] = ()) -> dict[Plan, float]:
    """Returns what each plan leaks, where the device's own bundle or a variant's folder says so."""
    plans, measured = _plans(FULL, bundle.spec.cuts(), bundle.codec), dict(bundle.leaks)
    for variant in variants:
        plans += _plans(variant.name, variant.cuts, variant.codec(bundle))
        measured |= variant.leaks(bundle)
    return leaks_of(plans, measured)


def served_forms(
    settings: EdgeSettings, bundle: Bundle, variants: Sequence[Variant], privacy: PrivacyDoor
) -> dict[str, ServedForm]:
    """Returns the forms by variant, each with the cuts that it serves. The model's own is among them, if only for its prompts.

    Raises ConfigError where no form serves anything.
    """
    spec = bundle.spec
    others = [_of_variant(settings, bundle, variant, privacy) for variant in variants]
    try:
        cuts = allowed_cuts(settings, spec, bundle.codec, privacy)
    except ConfigError:
        if not any(form.cuts for form in others):
            raise
        cuts = ()
    forms = [ServedForm(cuts, bundle.codec), *others]
    deepest = max((cut for form in forms for cut in form.cuts), key=lambda cut: cut.depth)
    within = [replace(form, cuts=_beside_language(settings, spec, form, deepest)) for form in forms]
    return {form.name: form for form in within if form.cuts or form.name == FULL}


def allowed_cuts(settings: EdgeSettings, spec: ModelSpec, codec: Codec, privacy: PrivacyDoor) -> tuple[Cut, ...]:
    """Returns the cuts of the model's own form that the configuration allows and memory has room for. Raises ConfigError."""
    wanted = _wanted(settings, spec)
    check_alone(settings, wanted)
    private = _private(wanted, FULL, codec, privacy)
    if not private:
        raise ConfigError(
            f"privacy.max_leak is {settings.privacy.max_leak:g}, and every level of the cuts that planning allows leaks more, "
            "or was not measured.",
            advice=f"`splitvlm leak {spec.name}` measures it, into the model's bundle; or allow the cut device.",
        )
    return _fitting(settings, spec, private)


def check_alone(settings: EdgeSettings, cuts: Sequence[Cut]) -> None:
    """Raises ConfigError where nothing may leave and the device cannot answer by itself."""
    if settings.privacy.mode == "device_only" and DEVICE not in cuts:
        raise ConfigError(
            "privacy.mode is device_only, but this node does not serve the cut device: planning.cuts, planning.fixed_plan or "
            "planning.device_memory_bytes forbid it.",
            advice="Allow the cut device, and start the node again.",
        )


def _wanted(settings: EdgeSettings, spec: ModelSpec) -> list[Cut]:
    """Returns the cuts that planning names, or all of the model's. Raises ConfigError for those that it lacks."""
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
    return wanted


def _private(cuts: Sequence[Cut], variant: str, codec: Codec, privacy: PrivacyDoor) -> list[Cut]:
    return [
        cut
        for cut in cuts
        if cut == DEVICE or any(privacy.allows(Plan(cut, level, variant)) for level in codec.levels(cut))
    ]


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


def _of_variant(settings: EdgeSettings, bundle: Bundle, variant: Variant, privacy: PrivacyDoor) -> ServedForm:
    """Returns a variant with those of its cuts that are allowed and that memory has room for, which may be none."""
    codec, spec, memory = variant.codec(bundle), bundle.spec, settings.planning.device_memory_bytes
    dtype = settings.model.dtype
    wanted = [cut for cut in _wanted(settings, spec) if cut in variant.cuts]
    if settings.privacy.mode == "device_only":
        wanted = [cut for cut in wanted if cut == DEVICE]
    cuts = [
        cut
        for cut in _private(wanted, variant.name, codec, privacy)
        if memory is None or memory_of(variant, spec, cut, dtype) <= memory
    ]
    return ServedForm(tuple(cuts), codec, variant)


def _beside_language(settings: EdgeSettings, spec: ModelSpec, form: ServedForm, deepest: Cut) -> tuple[Cut, ...]:
    """Returns the cuts whose memory is there beside the layers of the language model that `deepest` needs."""
    memory, dtype = settings.planning.device_memory_bytes, settings.model.dtype

    def needed(cut: Cut) -> int:
        more = spec.language_bytes(deepest, dtype) - spec.language_bytes(cut, dtype)
        return form.memory_bytes(spec, cut, dtype) + more

    return tuple(cut for cut in form.cuts if memory is None or needed(cut) <= memory)


def _plans(variant: str, cuts: Sequence[Cut], codec: Codec) -> list[Plan]:
    return [Plan(cut, level, variant) for cut in cuts if cut != DEVICE for level in codec.levels(cut)]
