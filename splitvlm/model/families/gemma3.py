"""Gemma 3: a SigLIP tower, pooled visual tokens that see one another, layers with sliding windows and full ones.

Source: transformers models/gemma3/modeling_gemma3.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from splitvlm.model.boundary import HIDDEN, Boundary
from splitvlm.model.families.family import PIXEL_BYTES, Family, Layout, batches
from splitvlm.model.families.siglip import tower_slice


class Gemma3(Family):
    """Divides Gemma 3: a SigLIP tower, a fixed number of tokens a crop, and images whose tokens see one another."""

    name = "gemma3"
    layout = Layout(
        patches=("model.vision_tower.embeddings.",),
        vision="model.vision_tower.encoder.layers.",
        connector=("model.vision_tower.post_layernorm.", "model.multi_modal_projector."),
        language="model.language_model.",
    )
    needs_types = True

    def check_states(self, model: Any, boundary: Boundary, most_tokens: int) -> bool:
        """Tells whether `hidden` and its side tensors at vision:k have shapes that this model's tower can make."""
        right_size = boundary[HIDDEN].shape[1] == self.patches_of_tile(model.config)
        return right_size and self.visual_tokens(model, boundary) <= most_tokens

    def visual_tokens(self, model: Any, boundary: Boundary) -> int:
        """Returns the number of visual tokens, which is fixed for each crop."""
        return int(boundary[HIDDEN].shape[0] * model.config.mm_tokens_per_image)

    def pixel_bytes(self, config: Any, image_processor: Any, width: int, height: int) -> int:
        """Returns a bound on the bytes of pixel values: the whole picture and each pan-and-scan crop have one fixed size."""
        size = image_processor.size
        crops = image_processor.pan_and_scan_max_num_crops if image_processor.do_pan_and_scan else 0
        return int(PIXEL_BYTES * size["height"] * size["width"] * (1 + crops))

    def stack(self, model: Any) -> nn.Module:
        """Returns the language model: embed_tokens, layers, norm."""
        language_model: nn.Module = model.model.language_model
        return language_model

    def tiles(self, inputs: Mapping[str, torch.Tensor]) -> Sequence[Mapping[str, torch.Tensor]]:
        """Divides the inputs by crops, which the tower sees one by one."""
        return [dict(inputs) | {"pixel_values": crops_NCHW} for crops_NCHW in batches(inputs["pixel_values"])]

    def lower_vision(self, model: Any, inputs: Mapping[str, torch.Tensor], layers: int) -> Boundary:
        """Runs patches and the first `layers` layers of the tower. Returns `hidden` and its side tensors."""
        return {HIDDEN: tower_slice(model.model.vision_tower, 0, layers, inputs["pixel_values"].to(model.dtype))}

    def upper_vision(self, model: Any, boundary: Boundary, layers: int) -> torch.Tensor:
        """Runs the tower's layers from `layers` on, with its end. Returns states for `connect`."""
        depth = self.vision_depth(model.config)
        return tower_slice(model.model.vision_tower, layers, depth, boundary[HIDDEN], ends=True)

    def connect(self, model: Any, states: torch.Tensor, boundary: Boundary) -> torch.Tensor:
        """Runs the connector. Returns visual tokens [V, D]."""
        tokens_NVD: torch.Tensor = model.model.multi_modal_projector(states)
        return tokens_NVD.flatten(0, 1)

    def tile_module(self, model: Any) -> nn.Module:
        """Returns tower and connector as one module of crops' pixels."""
        return _Crops(self, model)

    def prompt_mask(
        self, model: Any, stack: Any, states_BTD: torch.Tensor, cache: Any, positions: torch.Tensor, boundary: Boundary
    ) -> Any:
        """Returns a mask for each kind of layer, by the slice's own cache, in which image tokens see their whole image."""
        return model.create_masks_for_generate(
            config=stack.config,
            inputs_embeds=states_BTD,
            attention_mask=super().prompt_mask(model, stack, states_BTD, cache, positions, boundary),
            past_key_values=cache,
            position_ids=positions,
            token_type_ids=self.types(model, boundary)[None],
        )

    def shrunk(self, image_processor: Any, picture_CHW: Any) -> Any:
        """Returns the picture in the tower's input size; None with pan and scan, whose crops come from the original."""
        if image_processor.do_pan_and_scan:
            return None  # crops are taken from the original
        return image_processor.resize(picture_CHW, size=image_processor.size, resample=image_processor.resample)


class _Crops(nn.Module):
    """Turns crops' pixels [N, 3, H, W] into visual tokens [N, V, D]."""

    def __init__(self, family: Gemma3, model: Any) -> None:
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.depth = family.vision_depth(model.config)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tokens_NVD: torch.Tensor = self.projector(tower_slice(self.tower, 0, self.depth, pixel_values, ends=True))
        return tokens_NVD
