"""Qwen2.5-VL: a tower with attention in windows, positions in time, height and width.

Patches stand in the processor's order at the boundary; the tower itself works in the order of its windows, which follows
from the grid. Source: transformers models/qwen2_5_vl/modeling_qwen2_5_vl.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from splitvlm.model.boundary import GRID, HIDDEN, Boundary
from splitvlm.model.families.family import PIXEL_BYTES, Family, Layout
from splitvlm.model.slicing import Inlet, forward, twin


class Qwen25Vl(Family):
    """Divides Qwen2.5-VL: a tower with windowed attention and pictures of any size, and positions in three axes."""

    name = "qwen2_5_vl"
    layout = Layout(
        patches=("model.visual.patch_embed.",),
        vision="model.visual.blocks.",
        connector=("model.visual.merger.",),
        language="model.language_model.",
    )
    needs_types = True
    causal = True
    vision_sides = (GRID,)
    language_sides = (GRID,)
    states_axes = 2

    def check_states(self, model: Any, boundary: Boundary, most_tokens: int) -> bool:
        """Tells whether the patches [P, D] are whole merge windows, and no more than the prompt has room for."""
        merged = boundary[HIDDEN].shape[0] % model.config.vision_config.spatial_merge_size**2 == 0
        return merged and self.visual_tokens(model, boundary) <= most_tokens

    def visual_tokens(self, model: Any, boundary: Boundary) -> int:
        """Returns the number of visual tokens: one of each merge window of patches."""
        return int(boundary[HIDDEN].shape[0] // model.config.vision_config.spatial_merge_size**2)

    def check_sides(self, model: Any, boundary: Boundary, visual_tokens: int) -> bool:
        """Tells whether the grid is of still images, each in one piece of the prompt and with as many visual tokens."""
        merge = model.config.vision_config.spatial_merge_size
        rows = boundary[GRID].tolist()
        if any(time != 1 or min(height, width) <= 0 or height % merge or width % merge for time, height, width in rows):
            return False
        return _run_lengths(self.types(model, boundary)) == [height * width // merge**2 for _, height, width in rows]

    def vision_depth(self, config: Any) -> int:
        """Returns how many layers the vision tower has."""
        return int(config.vision_config.depth)

    def patches_of_tile(self, config: Any) -> int:
        """Returns the patches of a picture of 900 x 900 pixels, a usual size; the tower takes any."""
        return 4096  # of a picture of 900 x 900; the tower takes any size

    def pixel_bytes(self, config: Any, image_processor: Any, width: int, height: int) -> int:
        """Returns a bound on the bytes of pixel values: sides are rounded to merge windows, a still is repeated in time."""
        size, factor = image_processor.size, image_processor.patch_size * image_processor.merge_size
        rounded = (width + factor) * (height + factor)
        num_pixels = min(max(rounded, size["shortest_edge"] + factor**2), size["longest_edge"] + factor**2)
        return int(PIXEL_BYTES * num_pixels * image_processor.temporal_patch_size)  # a still is repeated

    def stack(self, model: Any) -> nn.Module:
        """Returns the language model: embed_tokens, layers, norm."""
        language_model: nn.Module = model.model.language_model
        return language_model

    def lower_vision(self, model: Any, inputs: Mapping[str, torch.Tensor], layers: int) -> Boundary:
        """Runs patches and the first `layers` layers. Returns `hidden` [P, D], in the picture's order, and the grid."""
        tower, grid = model.model.visual, inputs["image_grid_thw"]
        part = _tower(tower, 0, layers, merger=MergerInlet(tower.spatial_merge_unit))
        states_PD = forward(part, inputs["pixel_values"].to(model.dtype), grid_thw=grid).last_hidden_state
        order = torch.argsort(_window_index(tower, grid))
        return {HIDDEN: tower.permute_input_for_window_attn(states_PD, order, states_PD.shape[0]), GRID: grid}

    def upper_vision(self, model: Any, boundary: Boundary, layers: int) -> torch.Tensor:
        """Runs the tower's layers from `layers` on and the merger, in which its forward ends. Returns tokens [V, D]."""
        tower = model.model.visual
        part = _tower(tower, layers, self.vision_depth(model.config), merger=tower.merger, patch_embed=Inlet())
        tokens_VD: torch.Tensor = forward(part, boundary[HIDDEN], grid_thw=boundary[GRID]).pooler_output
        return tokens_VD

    def connect(self, model: Any, states: torch.Tensor, boundary: Boundary) -> torch.Tensor:
        """Returns the states as they are: the merger, which is this family's connector, belongs to the tower's end."""
        return states

    def positions(self, model: Any, boundary: Boundary) -> tuple[torch.Tensor, int]:
        """Returns position ids [3, 1, T] (time, height, width), and the offset of later tokens' positions."""
        types_BT = self.types(model, boundary)[None]
        positions_3BT, delta = model.model.get_rope_index(  # it reads of the ids only their shape
            torch.zeros_like(types_BT), mm_token_type_ids=types_BT, image_grid_thw=boundary.get(GRID)
        )
        return positions_3BT, int(delta)

    def later_positions(self, position: int, device: torch.device) -> torch.Tensor:
        """Returns position ids [3, 1, 1] of one later token: alike in time, height and width."""
        return torch.full((3, 1, 1), position, device=device)

    def shrunk(self, image_processor: Any, picture_CHW: Any) -> Any:
        """Returns the picture after the processor's own resize; None where it needs the original."""
        factor = image_processor.patch_size * image_processor.merge_size
        return image_processor.resize(
            picture_CHW, size=image_processor.size, resample=image_processor.resample, factor=factor
        )


def _run_lengths(types_T: torch.Tensor) -> list[int]:
    """Returns the lengths of the runs of ones, in their order."""
    values, counts = torch.unique_consecutive(types_T, return_counts=True)
    return [int(count) for value, count in zip(values, counts, strict=True) if value]


class MergerInlet(nn.Module):
    """Stands in for the merger below a cut: one row for each merged patch, whose values nobody reads."""

    def __init__(self, unit: int) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, states_PD: torch.Tensor) -> torch.Tensor:
        return states_PD[:: self.unit]


def _tower(tower: Any, start: int, stop: int, **children: nn.Module) -> nn.Module:
    part: nn.Module = twin(tower, blocks=tower.blocks[start:stop], **children)
    part.__dict__["fullatt_block_indexes"] = [i - start for i in tower.fullatt_block_indexes]
    return part


def _window_index(tower: Any, grid: torch.Tensor) -> torch.Tensor:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import get_vision_window_index

    index: torch.Tensor = get_vision_window_index(
        grid,
        spatial_merge_size=tower.spatial_merge_size,
        window_size=tower.window_size,
        patch_size=tower.patch_size,
        kwargs={},
    )[0]
    return index
