"""The tower of a variant that is an exported stage: run by the back end that is fastest on this device."""

from __future__ import annotations

import logging

import torch

from splitvlm.backends.catalogue import open_stage
from splitvlm.backends.stage import PIXELS, Stage
from splitvlm.backends.timing import BackendChoice
from splitvlm.model.boundary import HIDDEN, IDS, Boundary
from splitvlm.model.families.family import Family
from splitvlm.model.parts import DevicePart
from splitvlm.model.stage_clock import StageClock
from splitvlm.model.tower import Inputs, Tower
from splitvlm.profiling.backend_choice import backend_choice
from splitvlm.variants.folder import Variant

_log = logging.getLogger("splitvlm.variants")


class StageTower(Tower):
    """Makes visual tokens by an exported stage. Its time counts as the connector's: nothing inside a stage is timed."""

    def __init__(self, stage: Stage, family: Family, clock: StageClock) -> None:
        self.stage = stage
        self._family = family
        self._clock = clock

    def tokens(self, inputs: Inputs) -> Boundary:
        """Returns the boundary at `tokens`. Raises UsageError for tiles that are padded."""
        pixels_NCHW = self._family.tile_pixels(inputs).cpu().numpy()
        with self._clock.stage("connector"):
            tokens_VD = self.stage.run({PIXELS: pixels_NCHW})
        device = inputs["input_ids"].device
        return {HIDDEN: torch.from_numpy(tokens_VD).to(device), IDS: inputs["input_ids"][0]}


def stage_choice(variant: Variant, threads: int | None) -> BackendChoice:
    """Returns which back end runs a variant's stage here, and why. Raises UsageError where none can."""
    stage = variant.manifest.stage
    assert stage is not None, "a variant of weights has no stage"
    path = variant.folder / stage.file
    return backend_choice(path, variant.manifest.files[stage.file], stage.precision, threads=threads)


def open_stage_tower(variant: Variant, part: DevicePart, threads: int | None) -> StageTower:
    """Opens a variant's stage by the fastest back end here. Raises UsageError."""
    choice = stage_choice(variant, threads)
    _log.info("variant %s: %s", variant.name, choice.reason)
    stage = variant.manifest.stage
    assert stage is not None, "a variant of weights has no stage"
    opened = open_stage(variant.folder / stage.file, choice.backend, threads=threads, precision=choice.precision)
    return StageTower(opened, part.family, part.clock)
