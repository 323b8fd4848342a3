"""The kind `bf16`: the vision tower and connector in bfloat16, whatever the model's dtype. It takes no training."""

from __future__ import annotations

import torch

from splitvlm.domain import DEVICE, TOKENS
from splitvlm.model.loading import load_whole
from splitvlm.variants.folder import Made
from splitvlm.variants.making import Making
from splitvlm.variants.weights import FILES, save_tower


def make_half(making: Making) -> Made:
    """Writes the model's own tower and connector, rounded to bfloat16."""
    model, _ = load_whole(making.model)
    return Made((TOKENS, DEVICE), save_tower(making.folder, model, torch.bfloat16), weights=FILES)
