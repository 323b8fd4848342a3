"""SmolVLM and Idefics3: pictures in tiles, pixel shuffle, a Llama stack.

Source: transformers models/idefics3/modeling_idefics3.py and models/smolvlm/modeling_smolvlm.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from splitvlm.errors import UsageError
from splitvlm.model.boundary import HIDDEN, PATCHES, Boundary
from splitvlm.model.families.family import PIXEL_BYTES, Family, Layout, batches
from splitvlm.model.slicing import Inlet, forward, twin


class Idefics3(Family):
    """Divides Idefics3 and SmolVLM: a SigLIP tower, pixel shuffle, and tiles beside the whole picture."""

    name = "idefics3"
    layout = Layout(
        patches=("model.vision_model.embeddings.",),
        vision="model.vision_model.encoder.layers.",
        connector=("model.vision_model.post_layernorm.", "model.connector."),
        language="model.text_model.",
    )

    optional_sides = (PATCHES,)
    causal = True

    def check_states(self, model: Any, boundary: Boundary, most_tokens: int) -> bool:
        """Tells whether the states are of square tiles that the pixel shuffle takes, and the patches' mask fits them."""
        num_patches = boundary[HIDDEN].shape[1]
        side = math.isqrt(num_patches)  # the pixel shuffle takes squares
        is_tile = side**2 == num_patches <= self.patches_of_tile(model.config) and side % model.config.scale_factor == 0
        return is_tile and _is_mask(boundary) and self._num_tokens(model, boundary) <= most_tokens

    def visual_tokens(self, model: Any, boundary: Boundary) -> int | None:
        """Returns the number of visual tokens; None where the patches' mask holds more than zeros and ones."""
        patches = boundary.get(PATCHES)
        if patches is not None and not bool((patches <= 1).all()):
            return None
        return self._num_tokens(model, boundary)

    def _num_tokens(self, model: Any, boundary: Boundary) -> int:
        tiles, num_patches, _ = boundary[HIDDEN].shape
        return int(tiles * num_patches // model.config.scale_factor**2)

    def pixel_bytes(self, config: Any, image_processor: Any, width: int, height: int) -> int:
        """Returns a bound on the bytes of pixel values: square tiles of the longest edge, and the whole picture."""
        longest, edge = image_processor.size["longest_edge"], image_processor.max_image_size["longest_edge"]
        return int(PIXEL_BYTES * edge**2 * (1 + (-(-longest // edge)) ** 2))

    def stack(self, model: Any) -> nn.Module:
        """Returns the language model: embed_tokens, layers, norm."""
        language_model: nn.Module = model.model.text_model
        return language_model

    def tiles(self, inputs: Mapping[str, torch.Tensor]) -> Sequence[Mapping[str, torch.Tensor]]:
        """Divides the inputs by tiles; padded or empty ones stay together, because transformers drops and masks some."""
        pixels_BNCHW, mask_BNHW = inputs["pixel_values"], inputs.get("pixel_attention_mask")
        padded = mask_BNHW is not None and not bool(mask_BNHW.all())
        empty = not bool(pixels_BNCHW.flatten(2).any(dim=2).all())  # transformers takes such tiles away
        if padded or empty:
            return [inputs]
        tiles = batches(pixels_BNCHW, dim=1)
        return [dict(inputs) | {"pixel_values": tiles_BNCHW} | _all_seen(tiles_BNCHW) for tiles_BNCHW in tiles]

    def lower_vision(self, model: Any, inputs: Mapping[str, torch.Tensor], layers: int) -> Boundary:
        """Runs patches and the first `layers` layers of the tower, through transformers' own handling of empty tiles.

        Returns `hidden` [N, P, D], and the patches' mask where some patches are padding.
        """
        tap = _Tap(_tower(model, 0, layers, ends=False))
        whole = twin(model.model, vision_model=tap, connector=nn.Identity())
        forward_features = type(model.model).get_image_features  # it drops empty tiles and makes the patches' mask
        forward_features(whole, inputs["pixel_values"], inputs.get("pixel_attention_mask"), return_dict=True)
        boundary = {HIDDEN: tap.states_NPD}
        if not bool(tap.patches_NHW.all()):
            boundary[PATCHES] = tap.patches_NHW.to(torch.uint8)
        return boundary

    def upper_vision(self, model: Any, boundary: Boundary, layers: int) -> torch.Tensor:
        """Runs the tower's layers from `layers` on, with its end. Returns states for `connect`."""
        states_NPD = boundary[HIDDEN]
        patches = boundary.get(PATCHES)
        if patches is None:
            patches = torch.ones((*states_NPD.shape[:2], 1), device=states_NPD.device)
        tower = _tower(model, layers, self.vision_depth(model.config), ends=True)
        states: torch.Tensor = forward(tower, states_NPD, patch_attention_mask=patches.bool()).last_hidden_state
        return states

    def connect(self, model: Any, states: torch.Tensor, boundary: Boundary) -> torch.Tensor:
        """Runs the connector. Returns visual tokens [V, D]."""
        tokens_NVD: torch.Tensor = model.model.connector(states)
        return tokens_NVD.flatten(0, 1)

    def tile_module(self, model: Any) -> nn.Module:
        """Returns tower and connector as one module of tiles' pixels, which no padding is among."""
        return _FullTiles(model.model.vision_model, model.model.connector)

    def tile_pixels(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the pixels of the tiles that are not empty; transformers takes empty ones away, too. Raises UsageError."""
        pixels_NCHW, mask_BNHW = inputs["pixel_values"].flatten(0, 1).float(), inputs.get("pixel_attention_mask")
        real_N = pixels_NCHW.flatten(1).any(dim=1)
        real_N[0] |= ~real_N.any()
        if mask_BNHW is not None and not bool(mask_BNHW.flatten(0, 1)[real_N].all()):
            raise UsageError(
                "Some pixels of a tile are padding, which exported stages do not take.",
                advice="Ask with the variant `full`, or with a processor that fills its tiles.",
            )
        return pixels_NCHW[real_N]

    def shrunk(self, image_processor: Any, picture_CHW: Any) -> Any:
        """Returns the picture after the processor's own resize; None where it needs the original."""
        size = image_processor.size
        return image_processor.resize(picture_CHW, size=size, resample=image_processor.resample)


def _is_mask(boundary: Boundary) -> bool:
    """Tells whether the patches' mask has the shape of `hidden`, where there is one."""
    if PATCHES not in boundary:
        return True
    patches, (tiles, num_patches, _) = boundary[PATCHES], boundary[HIDDEN].shape
    if patches.dtype != torch.uint8 or patches.ndim != 3:
        return False
    return (patches.shape[0], patches.shape[1] * patches.shape[2]) == (tiles, num_patches)


def _all_seen(tiles_BNCHW: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_attention_mask": torch.ones_like(tiles_BNCHW[:, :, 0], dtype=torch.long)}


class _Tap(nn.Module):
    """Runs the tower's first layers and remembers what crosses."""

    states_NPD: torch.Tensor
    patches_NHW: torch.Tensor

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixel_values: torch.Tensor, patch_attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        output = forward(self.tower, pixel_values, patch_attention_mask=patch_attention_mask)
        self.states_NPD, self.patches_NHW = output.last_hidden_state, patch_attention_mask
        return output


class _FullTiles(nn.Module):
    """Turns tiles' pixels [N, 3, H, W] into visual tokens [N, V, D], without the mask that the tower's own forward makes."""

    def __init__(self, tower: Any, connector: nn.Module) -> None:
        super().__init__()
        self.tower, self.connector = tower, connector

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        tower: Any = self.tower
        side = pixel_values.shape[-1] // tower.patch_size
        patches_NHW = torch.ones((pixel_values.shape[0], side, side), dtype=torch.bool, device=pixel_values.device)
        embedded_NPD = forward(tower.embeddings, pixel_values, patches_NHW)
        states_NPD = tower.post_layernorm(forward(tower.encoder, embedded_NPD, None).last_hidden_state)
        tokens_NVD: torch.Tensor = self.connector(states_NPD)
        return tokens_NVD


def _tower(model: Any, start: int, stop: int, *, ends: bool) -> nn.Module:
    tower = model.model.vision_model
    changes: dict[str, nn.Module] = {"encoder": twin(tower.encoder, layers=tower.encoder.layers[start:stop])}
    if ends:
        changes["embeddings"] = Inlet()
    else:
        changes["post_layernorm"] = nn.Identity()
    part: nn.Module = twin(tower, **changes)
    return part
