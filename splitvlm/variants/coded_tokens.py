"""Visual tokens as they are above the cut when a codec level has coded them, for training and for measuring.

The codec itself codes and decodes. For training its noise is taken to grow and shrink with the range of each channel over the
picture's tokens, as that of the levels int2 to int8 does; otherwise the gradient passes through as if nothing were coded
(Bengio et al., arXiv 1308.3432; Esser et al., arXiv 1902.08153).

    N tiles, V visual tokens of a tile, D their width
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from splitvlm.codec.codec import Codec
from splitvlm.domain import TOKENS
from splitvlm.model.boundary import HIDDEN, IDS, to_arrays, to_tensors

_NO_IDS = torch.zeros(1, dtype=torch.int64)


def coded(codec: Codec, level: str, tokens_NVD: torch.Tensor) -> torch.Tensor:
    """Returns the tokens after encoding and decoding, tile by tile, with a gradient for the encoder's side."""
    with torch.no_grad():
        arrived = [_crossed(codec, level, tokens_VD.float().cpu()) for tokens_VD in tokens_NVD]
        arrived_NVD = torch.stack(arrived).to(tokens_NVD)
        noise_NVD = arrived_NVD - tokens_NVD
    range_N1D = tokens_NVD.amax(1, keepdim=True) - tokens_NVD.amin(1, keepdim=True)
    relative_NVD = noise_NVD / range_N1D.detach().clamp_min(1e-12)
    return tokens_NVD + relative_NVD * range_N1D


class CodedConnector(nn.Module):
    """Stands in for a model's connector: gives its tokens as they arrive above the cut."""

    def __init__(self, connector: Any, codec: Codec, level: str) -> None:
        super().__init__()
        self.connector = connector
        self._codec, self._level = codec, level

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the coded tokens [N, V, D] of a tower's states."""
        return coded(self._codec, self._level, self.connector(states))


def _crossed(codec: Codec, level: str, tokens_VD: torch.Tensor) -> torch.Tensor:
    payload = codec.encode(TOKENS, to_arrays({HIDDEN: tokens_VD, IDS: _NO_IDS}), level)
    return to_tensors(codec.decode(TOKENS, payload))[HIDDEN]
