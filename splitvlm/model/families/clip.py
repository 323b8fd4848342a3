"""Slices of a CLIP tower, whose states begin with a class token. Source: transformers models/clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from splitvlm.model.slicing import Inlet, forward, twin


def tower_slice(tower: Any, start: int, stop: int, inputs: torch.Tensor) -> torch.Tensor:
    """Runs layers [start, stop) over pixels [N, C, H, W] (start 0) or states [N, 1 + P, D]. Returns states [N, 1 + P, D].

    The tower's final norm belongs to its pooled output, which no family here uses, and is left out.
    """
    encoder = twin(tower.encoder, layers=tower.encoder.layers[start:stop])
    changes: dict[str, nn.Module] = {"encoder": encoder, "post_layernorm": nn.Identity()}
    if inputs.ndim == 3:
        changes |= {"embeddings": Inlet(), "pre_layrnorm": nn.Identity()}
    states_NPD: torch.Tensor = forward(twin(tower, **changes), inputs).last_hidden_state
    return states_NPD
