"""InternVL 3: a ViT over an image's crops and the whole image, pixel shuffle, a Qwen2 stack.

Source: transformers models/internvl/modeling_internvl.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from splitvlm.errors import UsageError
from splitvlm.model.boundary import HIDDEN, Boundary
from splitvlm.model.families.family import PIXEL_BYTES, Family, Layout, batches
from splitvlm.model.slicing import Inlet, forward, twin


class InternVl(Family):
    """Divides InternVL 3. Its tower's states begin with a class token, which the connector does not see."""

    name = "internvl"
    layout = Layout(
        patches=("model.vision_tower.embeddings.",),
        vision="model.vision_tower.encoder.layer.",
        connector=("model.vision_tower.layernorm.", "model.multi_modal_projector."),
        language="model.language_model.",
    )
    causal = True

    def check_states(self, model: Any, boundary: Boundary, most_tokens: int) -> bool:
        """Tells whether `hidden` at vision:k is of whole crops, and no more than the prompt has room for."""
        right_size = boundary[HIDDEN].shape[1] == 1 + self.patches_of_tile(model.config)
        return right_size and self.visual_tokens(model, boundary) <= most_tokens

    def visual_tokens(self, model: Any, boundary: Boundary) -> int:
        """Returns the number of visual tokens, which is fixed for each crop."""
        each = self.patches_of_tile(model.config) * model.config.downsample_ratio**2
        return int(boundary[HIDDEN].shape[0] * round(each))

    def vision_depth(self, config: Any) -> int:
        """Returns how many layers the tower has: the model takes the states after the last."""
        if config.vision_feature_layer != -1 or config.vision_feature_select_strategy != "default":
            raise UsageError(
                "This InternVL model takes states of a layer within its tower, or its class token.",
                advice="Only the states after the last layer are supported, as in InternVL 3's checkpoints.",
            )
        return int(config.vision_config.num_hidden_layers)

    def patches_of_tile(self, config: Any) -> int:
        """Returns the number of patches of one crop."""
        vision = config.vision_config
        return math.prod(size // patch for size, patch in zip(vision.image_size, vision.patch_size, strict=True))

    def pixel_bytes(self, config: Any, image_processor: Any, width: int, height: int) -> int:
        """Returns a bound on the bytes of pixel values: the crops of the best grid, twice while it is cut, and the whole."""
        size = image_processor.size
        crops = image_processor.max_patches if image_processor.crop_to_patches else 1
        return int(PIXEL_BYTES * size["height"] * size["width"] * (2 * crops + 1))

    def stack(self, model: Any) -> nn.Module:
        """Returns the language model: embed_tokens, layers, norm."""
        language_model: nn.Module = model.model.language_model
        return language_model

    def tiles(self, inputs: Mapping[str, torch.Tensor]) -> Sequence[Mapping[str, torch.Tensor]]:
        """Divides the inputs by crops, which the tower sees one by one."""
        return [dict(inputs) | {"pixel_values": crops_NCHW} for crops_NCHW in batches(inputs["pixel_values"])]

    def lower_vision(self, model: Any, inputs: Mapping[str, torch.Tensor], layers: int) -> Boundary:
        """Runs patches and the first `layers` layers of the tower. Returns `hidden` [N, 1 + P, D]."""
        pixels_NCHW = inputs["pixel_values"].to(model.dtype)
        return {HIDDEN: _tower_slice(model.model.vision_tower, 0, layers, pixels_NCHW, ends=False)}

    def upper_vision(self, model: Any, boundary: Boundary, layers: int) -> torch.Tensor:
        """Runs the tower's layers from `layers` on, with its end. Returns states for `connect`."""
        depth = self.vision_depth(model.config)
        return _tower_slice(model.model.vision_tower, layers, depth, boundary[HIDDEN], ends=True)

    def connect(self, model: Any, states: torch.Tensor, boundary: Boundary) -> torch.Tensor:
        """Runs pixel shuffle and connector on all tokens but the class token. Returns visual tokens [V, D]."""
        patches_NPD = states[:, 1:]
        side = math.isqrt(patches_NPD.shape[1])
        square = patches_NPD.reshape(len(patches_NPD), side, side, -1)
        shuffled = model.model.pixel_shuffle(square, scale_factor=model.config.downsample_ratio)
        tokens_NVD: torch.Tensor = model.model.multi_modal_projector(shuffled.flatten(1, 2))
        return tokens_NVD.flatten(0, 1)

    def shrunk(self, image_processor: Any, picture_CHW: Any) -> Any:
        """Returns the picture in the tower's input size; None where crops are taken from the original."""
        if image_processor.crop_to_patches:
            return None
        return image_processor.resize(picture_CHW, size=image_processor.size, resample=image_processor.resample)


def _tower_slice(tower: Any, start: int, stop: int, inputs: torch.Tensor, *, ends: bool) -> torch.Tensor:
    """Runs layers [start, stop) over pixels [N, C, H, W] (start 0) or states [N, 1 + P, D]; `ends` adds the final norm."""
    changes: dict[str, nn.Module] = {"encoder": twin(tower.encoder, layer=tower.encoder.layer[start:stop])}
    if inputs.ndim == 3:
        changes["embeddings"] = Inlet()
    if not ends:
        changes["layernorm"] = nn.Identity()
    states_NPD: torch.Tensor = forward(twin(tower, **changes), inputs).last_hidden_state
    return states_NPD
