"""Slices of a SigLIP tower, which LLaVA-OneVision and Gemma 3 share. Source: transformers models/siglip."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from splitvlm.model.slicing import Inlet, forward, twin


def tower_slice(tower: Any, start: int, stop: int, inputs: torch.Tensor, *, ends: bool = False) -> torch.Tensor:
    """Runs layers [start, stop) over pixels [N, C, H, W] (start 0) or states [N, P, D]. Returns states [N, P, D].

    `ends` applies the tower's final norm; its pooling head, which no family here uses, is left out.
    """
    changes: dict[str, nn.Module] = {"encoder": twin(tower.encoder, layers=tower.encoder.layers[start:stop])}
    if inputs.ndim == 3:
        changes["embeddings"] = Inlet()
    if not ends:
        changes["post_layernorm"] = nn.Identity()
    part = twin(tower, **changes)
    part.use_head = False
    states_NPD: torch.Tensor = forward(part, inputs).last_hidden_state
    return states_NPD
