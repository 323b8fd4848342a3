"""Mistral 3: a Pixtral tower over images of any size, patches merged two by two, a Mistral stack.

At the boundary the patches of all images stand one image after another, row by row; their sizes tell them apart.
Source: transformers models/mistral3/modeling_mistral3.py, models/pixtral/modeling_pixtral.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from splitvlm.errors import UsageError
from splitvlm.model.boundary import HIDDEN, SIZES, Boundary
from splitvlm.model.families.family import PIXEL_BYTES, Family, Layout
from splitvlm.model.slicing import forward, twin


class Mistral3(Family):
    """Divides Mistral 3. Each patch sees those of its own image, with positions in height and width."""

    name = "mistral3"
    layout = Layout(
        patches=("model.vision_tower.patch_conv.", "model.vision_tower.ln_pre."),
        vision="model.vision_tower.transformer.layers.",
        connector=("model.multi_modal_projector.",),
        language="model.language_model.",
    )
    vision_sides = (SIZES,)
    states_axes = 2
    causal = True
    tokens_by_tile = False  # all images are one sequence in the tower

    def check_states(self, model: Any, boundary: Boundary, most_tokens: int) -> bool:
        """Tells whether the patches [P, D] are whole merge windows, and no more than the prompt has room for."""
        num_patches, window = boundary[HIDDEN].shape[0], int(model.config.spatial_merge_size**2)
        return num_patches % window == 0 and num_patches // window <= most_tokens

    def visual_tokens(self, model: Any, boundary: Boundary) -> int | None:
        """Returns the number of visual tokens, one of each merge window; None where the sizes are not those of the patches."""
        config, sizes = model.config, boundary[SIZES].tolist()
        patch, factor = config.vision_config.patch_size, _factor(config)
        if any(min(size) <= 0 or size[0] % factor or size[1] % factor for size in sizes):
            return None
        if sum(_num_patches(size, patch) for size in sizes) != boundary[HIDDEN].shape[0]:
            return None
        return sum(_num_patches(size, factor) for size in sizes)

    def vision_depth(self, config: Any) -> int:
        """Returns how many layers run: the model takes states after one of the tower's (-1: the last)."""
        layer = config.vision_feature_layer
        if not isinstance(layer, int) or config.vision_config.model_type != "pixtral":
            raise UsageError(
                "This Mistral 3 model takes states of several layers, or has a tower that is not Pixtral.",
                advice="Only one layer of a Pixtral tower is supported, as in the released checkpoints.",
            )
        return layer if layer >= 0 else int(config.vision_config.num_hidden_layers) + 1 + layer

    def pixel_bytes(self, config: Any, image_processor: Any, width: int, height: int) -> int:
        """Returns a bound on the bytes of pixel values: the resized picture, and the same padded to the largest beside it."""
        edge, factor = image_processor.size["longest_edge"], _factor(config)
        resized = (min(width, edge) + factor) * (min(height, edge) + factor)
        return int(PIXEL_BYTES * (resized + (edge + factor) ** 2))

    def stack(self, model: Any) -> nn.Module:
        """Returns the language model: embed_tokens, layers, norm."""
        language_model: nn.Module = model.model.language_model
        return language_model

    def lower_vision(self, model: Any, inputs: Mapping[str, torch.Tensor], layers: int) -> Boundary:
        """Runs patches and the first `layers` layers. Returns `hidden` [P, D] and the images' sizes in pixels."""
        sizes = inputs["image_sizes"]
        part = _tower(model.model.vision_tower, 0, layers)
        states_BPD = forward(part, inputs["pixel_values"].to(model.dtype), image_sizes=sizes.tolist()).last_hidden_state
        return {HIDDEN: states_BPD[0], SIZES: sizes}

    def upper_vision(self, model: Any, boundary: Boundary, layers: int) -> torch.Tensor:
        """Runs the tower's layers from `layers` on. Returns states for `connect`."""
        tower, sizes = model.model.vision_tower, boundary[SIZES].tolist()
        inlet = _PatchInlet(tower.patch_conv.weight, sizes, tower.patch_size)
        part = _tower(tower, layers, self.vision_depth(model.config), patch_conv=inlet, ln_pre=nn.Identity())
        states_PD: torch.Tensor = forward(part, boundary[HIDDEN], image_sizes=sizes).last_hidden_state[0]
        return states_PD

    def connect(self, model: Any, states: torch.Tensor, boundary: Boundary) -> torch.Tensor:
        """Runs the connector, which merges patches by the images' sizes. Returns visual tokens [V, D]."""
        tokens_VD: torch.Tensor = model.model.multi_modal_projector(states, boundary[SIZES].tolist())
        return tokens_VD

    def shrunk(self, image_processor: Any, picture_CHW: Any) -> Any:
        """Returns None: the processor, and not the image processor, says to how many pixels a picture's edges are rounded."""
        return None


class _PatchInlet(nn.Module):
    """Stands in for the patches' convolution above a cut: it lays each image's states [P, D] out as a map [D, H, W]."""

    def __init__(self, weight: torch.Tensor, sizes: Sequence[Sequence[int]], patch: int) -> None:
        super().__init__()
        self.weight = weight  # whose dtype the tower's forward asks for
        self.maps = [(height // patch, width // patch) for height, width in sizes]

    def forward(self, states_PD: torch.Tensor) -> list[torch.Tensor]:
        images = states_PD.split([height * width for height, width in self.maps])
        return [image_PD.T.unflatten(1, size) for image_PD, size in zip(images, self.maps, strict=True)]


def _tower(tower: Any, start: int, stop: int, **children: nn.Module) -> nn.Module:
    transformer = twin(tower.transformer, layers=tower.transformer.layers[start:stop])
    part: nn.Module = twin(tower, transformer=transformer, **children)
    return part


def _factor(config: Any) -> int:
    """Returns the edge of a merge window in pixels."""
    return int(config.vision_config.patch_size * config.spatial_merge_size)


def _num_patches(size: Sequence[int], edge: int) -> int:
    """Returns how many squares of so many pixels an image [height, width] is cut in."""
    return (size[0] // edge) * (size[1] // edge)
