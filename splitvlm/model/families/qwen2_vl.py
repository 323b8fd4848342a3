"""Qwen2-VL: as Qwen2.5-VL, with full attention in all of the tower's layers.

Source: transformers models/qwen2_vl/modeling_qwen2_vl.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from splitvlm.model.boundary import GRID, HIDDEN, Boundary
from splitvlm.model.families.qwen2_5_vl import MergerInlet, Qwen25Vl
from splitvlm.model.slicing import Inlet, forward, twin


class Qwen2Vl(Qwen25Vl):
    """Divides Qwen2-VL. Patches stand at the boundary as the tower has them."""

    name = "qwen2_vl"

    def tower_widths(self, config: Any) -> tuple[int, int]:
        """Returns the width of the tower's states, and that within its MLPs; `hidden_size` is the language model's there."""
        vision = config.vision_config
        return int(vision.embed_dim), int(vision.embed_dim * vision.mlp_ratio)

    def lower_vision(self, model: Any, inputs: Mapping[str, torch.Tensor], layers: int) -> Boundary:
        """Runs patches and the first `layers` layers. Returns `hidden` [P, D] and the grid."""
        tower, grid = model.model.visual, inputs["image_grid_thw"]
        part = _tower(tower, 0, layers, merger=MergerInlet(tower.spatial_merge_size**2))
        states_PD = forward(part, inputs["pixel_values"].to(model.dtype), grid_thw=grid).last_hidden_state
        return {HIDDEN: states_PD, GRID: grid}

    def upper_vision(self, model: Any, boundary: Boundary, layers: int) -> torch.Tensor:
        """Runs the tower's layers from `layers` on and the merger, in which its forward ends. Returns tokens [V, D]."""
        part = _tower(model.model.visual, layers, self.vision_depth(model.config), patch_embed=Inlet())
        tokens_VD: torch.Tensor = forward(part, boundary[HIDDEN], grid_thw=boundary[GRID]).pooler_output
        return tokens_VD


def _tower(tower: Any, start: int, stop: int, **children: nn.Module) -> nn.Module:
    part: nn.Module = twin(tower, blocks=tower.blocks[start:stop], **children)
    return part
