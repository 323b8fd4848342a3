"""The vision tower and the connector of a part: from the processor's tensors to visual tokens.

This is the seam that a variant replaces: prompts, the language model's layers and the cuts above `tokens` know nothing of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from splitvlm.model.boundary import HIDDEN, IDS, Boundary
from splitvlm.model.families.family import Family
from splitvlm.model.stage_clock import StageClock

Inputs = Mapping[str, torch.Tensor]
"""What the processor made of a picture and a prompt, with its batch axis; or of some tiles of it."""


class Tower(ABC):
    """Makes visual tokens."""

    @abstractmethod
    def tokens(self, inputs: Inputs) -> Boundary:
        """Returns the boundary at `tokens`: `hidden` [V, D], `ids`, and the side tensors that the language model needs."""


class TorchTower(Tower):
    """Runs transformers' own modules; it alone serves the cuts inside the tower."""

    def __init__(self, family: Family, model: Any, clock: StageClock) -> None:
        """Takes a model of which the stages are loaded that the served cuts need; `clock` times them."""
        self.model = model
        self._family = family
        self._clock = clock
        self._depth = family.vision_depth(model.config)
        clock.watch_one(family.patch_embedding(model), "patches")
        clock.watch(family.vision_layers(model), "vision")

    def see(self, inputs: Inputs, layers: int) -> Boundary:
        """Returns the boundary at vision:`layers`."""
        return self._family.lower_vision(self.model, inputs, layers) | {IDS: inputs["input_ids"][0]}

    def finish(self, boundary: Boundary, layers: int) -> Boundary:
        """Returns the boundary at `tokens` from that at vision:`layers`, whose `hidden` may be that of one tile of several."""
        states = self._family.upper_vision(self.model, boundary, layers)
        with self._clock.stage("connector"):
            tokens_VD = self._family.connect(self.model, states, boundary)
        return {HIDDEN: tokens_VD} | {name: boundary[name] for name in (IDS, *self._family.language_sides)}

    def tokens(self, inputs: Inputs) -> Boundary:
        """Returns the boundary at `tokens`."""
        return self.finish(self.see(inputs, self._depth), self._depth)
