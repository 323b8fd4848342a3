"""The device's part in its forms: the model's own (`full`) and those of variants. One language model serves them all.

Each form has a tower of its own, which is loaded at its first use (the model's own at once) and dropped where another one needs
the room. Without variants there is one form, and its part is loaded whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from splitvlm.bundle import Bundle
from splitvlm.codec.codec import Codec
from splitvlm.domain import FULL, IMAGE, Cut
from splitvlm.model.boundary import Boundary, to_arrays
from splitvlm.model.loading import load_device, load_own_tower, load_tower
from splitvlm.model.parts import DevicePart
from splitvlm.model.skeleton import parameter_bytes
from splitvlm.model.tower import Tower
from splitvlm.settings import ModelChoice
from splitvlm.variants.folder import Variant
from splitvlm.variants.room import Room
from splitvlm.variants.stage_tower import open_stage_tower


class DeviceForm(NamedTuple):
    """Holds what runs one form, and how what crosses of it is coded. Weights are loaded when it runs."""

    part: DevicePart
    codec: Codec

    def encode(self, cut: Cut, crossing: Boundary, level: str) -> bytes:
        """Returns what crosses as bytes. Raises UsageError."""
        return self.codec.encode(cut, to_arrays(crossing), level)


def load_forms(
    model: ModelChoice,
    cuts: Mapping[str, Sequence[Cut]],
    bundle: Bundle,
    variants: Sequence[Variant] = (),
    device_memory_bytes: int | None = None,
) -> dict[str, DeviceForm]:
    """Loads the forms that serve any of `cuts`, which are given by variant; of the towers, the model's own. Raises UsageError.

    Weights of all towers that are loaded at once and of the language model, and what a request takes, are within
    `device_memory_bytes`.
    """
    every = [cut for served in cuts.values() for cut in served]
    alone = not any(cuts.get(variant.name) for variant in variants)
    part = load_device(
        model.name, every, device=model.device, dtype=model.dtype, threads=model.threads, with_tower=alone
    )
    if alone:
        return {FULL: DeviceForm(part, bundle.codec)}
    towers = Towers(part, model, None if device_memory_bytes is None else device_memory_bytes - _beside(part, every))
    forms = {FULL: DeviceForm(towers.own(tuple(cuts.get(FULL, ()))), bundle.codec)}
    for variant in variants:
        if served := cuts.get(variant.name):
            forms[variant.name] = DeviceForm(towers.of(variant, tuple(served)), variant.codec(bundle))
    if any(cut != IMAGE for cut in forms[FULL].part.cuts):
        _ = forms[FULL].part.tower
    return forms


class Towers:
    """Gives parts of one model, which share all but their towers."""

    def __init__(self, part: DevicePart, model: ModelChoice, room_bytes: int | None) -> None:
        """Takes a part that was loaded without its tower, how it was chosen to compute, and the room for towers."""
        self._part, self._model = part, model
        self.room: Room[Tower] = Room(room_bytes)

    def own(self, cuts: tuple[Cut, ...]) -> DevicePart:
        """Returns the part with the model's own tower, as far as `cuts` need it."""
        part, dtype = self._part, self._model.dtype
        deepest = max(cuts, key=lambda cut: cut.depth, default=IMAGE)
        num_bytes = part.spec.tower_bytes(deepest, dtype)
        tower_of = self.room.add(FULL, num_bytes, lambda: load_own_tower(part, deepest, dtype))
        return part.with_tower(tower_of, cuts)

    def of(self, variant: Variant, cuts: tuple[Cut, ...]) -> DevicePart:
        """Returns the part with a variant's tower."""
        tower_of = self.room.add(variant.name, variant.weight_bytes, lambda: self._tower(variant))
        return self._part.with_tower(tower_of, cuts)

    def _tower(self, variant: Variant) -> Tower:
        if variant.manifest.stage is None:
            return load_tower(variant.folder, self._part)
        return open_stage_tower(variant, self._part, self._model.threads)


def _beside(part: DevicePart, cuts: Sequence[Cut]) -> int:
    """Returns the bytes of what is in memory beside towers: the language model, a request's cache, and its activations."""
    spec, dtype = part.spec, str(part.model.dtype).removeprefix("torch.")
    request_bytes = (
        spec.device_memory_bytes(cut, dtype, tower_bytes=0) - spec.language_bytes(cut, dtype) for cut in cuts
    )
    return parameter_bytes(part.model) + max(request_bytes)
