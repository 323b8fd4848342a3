"""The codec on torch's tensors, through the model's door: what tests of its laws are about."""

from __future__ import annotations

import torch

from splitvlm import codec
from splitvlm.codec.limits import CodecLimits
from splitvlm.model.boundary import to_arrays, to_tensors


def encode(boundary: dict[str, torch.Tensor], level: str) -> bytes:
    return codec.encode(to_arrays(boundary), level)


def decode(data: bytes, *, limits: CodecLimits) -> dict[str, torch.Tensor]:
    return to_tensors(codec.decode(data, limits=limits))
