"""LLaVA-1.5: a CLIP tower over one square crop of each image, a two-layer connector, a Llama stack.

Source: transformers models/llava/modeling_llava.py, models/clip/modeling_clip.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from splitvlm.errors import UsageError
from splitvlm.model.boundary import HIDDEN, Boundary
from splitvlm.model.families.clip import tower_slice
from splitvlm.model.families.family import PIXEL_BYTES, Family, Layout, batches


class Llava(Family):
    """Divides LLaVA-1.5. Its tower's states begin with a class token, which the connector does not see."""

    name = "llava"
    layout = Layout(
        patches=("model.vision_tower.embeddings.", "model.vision_tower.pre_layrnorm."),
        vision="model.vision_tower.encoder.layers.",
        connector=("model.multi_modal_projector.",),
        language="model.language_model.",
    )
    causal = True

    def check_states(self, model: Any, boundary: Boundary, most_tokens: int) -> bool:
        """Tells whether `hidden` at vision:k is of whole images, and no more than the prompt has room for."""
        right_size = boundary[HIDDEN].shape[1] == 1 + self.patches_of_tile(model.config)
        return right_size and self.visual_tokens(model, boundary) <= most_tokens

    def visual_tokens(self, model: Any, boundary: Boundary) -> int:
        """Returns the number of visual tokens: one of each patch, without the class token."""
        return int(boundary[HIDDEN].shape[0] * self.patches_of_tile(model.config))

    def vision_depth(self, config: Any) -> int:
        """Returns how many layers run: the model takes the states after one of the tower's (-2: the last but one)."""
        layer = config.vision_feature_layer
        is_clip = config.vision_config.model_type == "clip_vision_model"
        if not isinstance(layer, int) or not is_clip or config.vision_feature_select_strategy != "default":
            raise UsageError(
                "This LLaVA model takes states of several layers or its class token, or has a tower that is not CLIP.",
                advice="Only one layer of a CLIP tower is supported, as in LLaVA-1.5's checkpoints.",
            )
        depth = int(config.vision_config.num_hidden_layers)
        return layer if layer >= 0 else depth + 1 + layer

    def pixel_bytes(self, config: Any, image_processor: Any, width: int, height: int) -> int:
        """Returns a bound on the bytes of pixel values: the shortest edge is resized, and the middle is cut out."""
        edge, crop = image_processor.size["shortest_edge"], image_processor.crop_size
        resized = edge * (edge * max(width, height) // min(width, height) + 1)
        return int(PIXEL_BYTES * (resized + crop["height"] * crop["width"]))

    def stack(self, model: Any) -> nn.Module:
        """Returns the language model: embed_tokens, layers, norm."""
        language_model: nn.Module = model.model.language_model
        return language_model

    def tiles(self, inputs: Mapping[str, torch.Tensor]) -> Sequence[Mapping[str, torch.Tensor]]:
        """Divides the inputs by images, which the tower sees one by one."""
        return [dict(inputs) | {"pixel_values": images_NCHW} for images_NCHW in batches(inputs["pixel_values"])]

    def lower_vision(self, model: Any, inputs: Mapping[str, torch.Tensor], layers: int) -> Boundary:
        """Runs patches and the first `layers` layers of the tower. Returns `hidden` [N, 1 + P, D]."""
        return {HIDDEN: tower_slice(model.model.vision_tower, 0, layers, inputs["pixel_values"].to(model.dtype))}

    def upper_vision(self, model: Any, boundary: Boundary, layers: int) -> torch.Tensor:
        """Runs the tower's layers from `layers` on. Returns states for `connect`."""
        return tower_slice(model.model.vision_tower, layers, self.vision_depth(model.config), boundary[HIDDEN])

    def connect(self, model: Any, states: torch.Tensor, boundary: Boundary) -> torch.Tensor:
        """Runs the connector on all tokens but the class token. Returns visual tokens [V, D]."""
        tokens_NVD: torch.Tensor = model.model.multi_modal_projector(states[:, 1:])
        return tokens_NVD.flatten(0, 1)

    def shrunk(self, image_processor: Any, picture_CHW: Any) -> Any:
        """Returns the picture with its shortest edge resized, before the middle is cut out."""
        return image_processor.resize(picture_CHW, size=image_processor.size, resample=image_processor.resample)
