"""Random weights that make a model that is worth comparing: states keep their size, and answers do not collapse.

Matrices are uniform with variance 1 / inputs, which keeps states of order one through a stack of normed layers. The
embedding table is small beside what the layers add: with a tied head a large one would only ever repeat the last token.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import nn

_EMBEDDING_STD = 0.02
_BIAS_STD = 0.02


def draw(model: Any, name: str, seed: str) -> torch.Tensor:
    """Returns the float32 tensor of the parameter `name` of a skeleton, drawn from (seed, name) alone."""
    holder, _, leaf = name.rpartition(".")
    module = model.get_submodule(holder)
    parameter = getattr(module, leaf)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    std, mean = _spread(module, parameter)
    half = math.sqrt(3.0) * std  # of a uniform spread with that standard deviation
    return torch.empty(parameter.shape).uniform_(mean - half, mean + half, generator=generator)


def _spread(module: nn.Module, parameter: nn.Parameter) -> tuple[float, float]:
    kind = type(module).__name__
    if isinstance(module, nn.Embedding):
        return _EMBEDDING_STD, 0.0
    if "Norm" in kind and parameter.ndim == 1:
        is_scale = parameter is getattr(module, "weight", None)
        return _BIAS_STD, 1.0 if is_scale and kind != "Gemma3RMSNorm" else 0.0  # Gemma's scale is 1 + weight
    if parameter.ndim == 1:
        return _BIAS_STD, 0.0
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
        return 1.0 / math.sqrt(parameter[0].numel()), 0.0
    return 1.0 / math.sqrt(parameter.shape[0]), 0.0  # a bare matrix [inputs, outputs], as Gemma's projector
