"""LLaVA-OneVision: a SigLIP tower over a picture and its crops, packed row by row by the picture's size, a Qwen2 stack.

Source: transformers models/llava_onevision/modeling_llava_onevision.py, models/siglip/modeling_siglip.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from splitvlm.errors import UsageError
from splitvlm.model.boundary import HIDDEN, SIZES, Boundary
from splitvlm.model.families.family import PIXEL_BYTES, Family, Layout, batches
from splitvlm.model.families.siglip import tower_slice

_MAX_EDGE = 65_535  # pixels; no picture format that we take has longer edges


class LlavaOnevision(Family):
    """Divides LLaVA-OneVision: a SigLIP tower, and crops whose rows are packed into one another."""

    name = "llava_onevision"
    layout = Layout(
        patches=("model.vision_tower.embeddings.",),
        vision="model.vision_tower.encoder.layers.",
        connector=("model.multi_modal_projector.", "model.image_newline"),
        language="model.language_model.",
    )

    vision_sides = (SIZES,)
    causal = True
    tokens_by_tile = False  # rows of several crops are packed into one another

    def check_states(self, model: Any, boundary: Boundary, most_tokens: int) -> bool:
        """Tells whether tiles [N, P, D] are no more, and no larger, than the configuration's grids allow."""
        config, (tiles, num_patches, _) = model.config, boundary[HIDDEN].shape
        most_tiles = max(
            len(boundary.get(SIZES, ())), *(_num_tiles(config, [size]) for size in config.image_grid_pinpoints)
        )
        return num_patches == self.patches_of_tile(config) and bool(tiles <= most_tiles)

    def visual_tokens(self, model: Any, boundary: Boundary) -> int | None:
        """Counts by the model's own packing, of tiles without data; None where no row is left or the sizes do not fit."""
        sizes, (tiles, num_patches, _) = boundary[SIZES], boundary[HIDDEN].shape
        if not bool(((sizes > 0) & (sizes <= _MAX_EDGE)).all()) or tiles != _num_tiles(model.config, sizes.tolist()):
            return None
        nothing_NP1 = torch.empty((tiles, num_patches, 1), device="meta")
        try:
            return int(_packed(model, nothing_NP1, sizes, torch.empty(1, device="meta")).shape[0])
        except (RuntimeError, ValueError):  # no row is left of a picture of such proportions
            return None

    def vision_depth(self, config: Any) -> int:
        """Returns how many layers run: the model takes states after one of the tower's (-1: the last), before the last norm."""
        layer = config.vision_feature_layer
        if not isinstance(layer, int) or config.vision_config.model_type != "siglip_vision_model":
            raise UsageError(
                "This LLaVA-OneVision model takes states of several layers, or has a tower that is not SigLIP.",
                advice="Only one layer of a SigLIP tower is supported, as in the released checkpoints.",
            )
        depth = int(config.vision_config.num_hidden_layers)
        return layer if layer >= 0 else depth + 1 + layer

    def pixel_bytes(self, config: Any, image_processor: Any, width: int, height: int) -> int:
        """Returns a bound on the bytes of pixel values: the picture's tiles by the best grid, all of one size."""
        size = image_processor.size
        return int(PIXEL_BYTES * size["height"] * size["width"] * _num_tiles(config, [(height, width)]))

    def stack(self, model: Any) -> nn.Module:
        """Returns the language model: embed_tokens, layers, norm."""
        language_model: nn.Module = model.model.language_model
        return language_model

    def tiles(self, inputs: Mapping[str, torch.Tensor]) -> Sequence[Mapping[str, torch.Tensor]]:
        """Divides the processor's inputs into those of single tiles (of many, a few are one)."""
        return [dict(inputs) | {"pixel_values": crop} for crop in batches(inputs["pixel_values"], dim=1)]

    def lower_vision(self, model: Any, inputs: Mapping[str, torch.Tensor], layers: int) -> Boundary:
        """Runs patches and the first `layers` layers. Returns `hidden` [N, P, D] and the picture's size, for packing."""
        pixels_NCHW = inputs["pixel_values"].flatten(0, 1).to(model.dtype)
        states_NPD = tower_slice(model.model.vision_tower, 0, layers, pixels_NCHW)
        return {HIDDEN: states_NPD, SIZES: inputs["image_sizes"]}

    def upper_vision(self, model: Any, boundary: Boundary, layers: int) -> torch.Tensor:
        """Runs the tower's layers from `layers` on, with its end. Returns states for `connect`."""
        return tower_slice(model.model.vision_tower, layers, self.vision_depth(model.config), boundary[HIDDEN])

    def connect(self, model: Any, states: torch.Tensor, boundary: Boundary) -> torch.Tensor:
        """Runs the connector and packs the tiles' tokens, with a newline token after each row. Returns [V, D]."""
        if model.config.vision_feature_select_strategy == "default":
            states = states[:, 1:]  # a tower with a class token
        tokens_NPD = model.model.multi_modal_projector(states)
        return _packed(model, tokens_NPD, boundary[SIZES], model.model.image_newline)


def _num_tiles(config: Any, sizes: Sequence[Sequence[int]]) -> int:
    """Returns how many tiles images [height, width] become: one becomes itself and its crops, several one tile each."""
    if len(sizes) > 1:
        return len(sizes)
    [size] = sizes
    num_tiles: int = image_size_to_num_patches(list(size), config.image_grid_pinpoints, config.vision_config.image_size)
    return num_tiles


def _packed(model: Any, tokens_NPD: torch.Tensor, sizes: torch.Tensor, newline_D: torch.Tensor) -> torch.Tensor:
    """Returns visual tokens [V, D]: rows of several crops packed into one another."""
    images = [tokens_NPD] if len(sizes) == 1 else list(tokens_NPD[:, None])
    packed, _ = model.model.pack_image_features(
        images, sizes, image_newline=newline_D, vision_aspect_ratio=model.config.vision_aspect_ratio
    )
    return torch.cat(list(packed))
