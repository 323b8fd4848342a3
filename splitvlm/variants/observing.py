"""Observes what linear layers are multiplied with: ranges over sample pictures, and channels far larger than the others.

Such outlier channels stretch the range that all share, so that 8 bits resolve the ordinary ones coarsely.
Source: Dettmers et al., "LLM.int8()", 2022; Xiao et al., "SmoothQuant", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

OUTLYING = 20.0  # times the median channel's largest value
_LEVELS = 255  # of 8 bits, besides zero


@dataclass(frozen=True, slots=True)
class Observed:
    """Holds what a layer's input was over the samples."""

    low: float
    high: float
    channel_max: NDArray[np.float32]  # largest absolute value of each channel

    def outliers(self) -> dict[int, float]:
        """Returns channels whose largest value is far above the median channel's, with how many times it is."""
        median = max(float(np.median(self.channel_max)), 1e-12)
        outlying = np.flatnonzero(self.channel_max > OUTLYING * median)
        return {int(channel): round(float(self.channel_max[channel]) / median, 1) for channel in outlying}


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """Returns the linear layers of a module by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


def observe(module: nn.Module, tiles: Sequence[torch.Tensor], done: Callable[[int], None]) -> dict[str, Observed]:
    """Returns what each linear layer is multiplied with when the module runs on the tiles [N, 3, H, W]."""
    seen: dict[str, Observed] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            states = inputs[0].flatten(0, -2).float()
            now = Observed(float(states.min()), float(states.max()), states.abs().amax(dim=0).numpy())
            seen[name] = _merged(seen[name], now) if name in seen else now

        return note

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in linear_layers(module).items()]
    try:
        with torch.inference_mode():
            for index, tile in enumerate(tiles):
                module(tile)
                done(index + 1)
    finally:
        for handle in hooks:
            handle.remove()
    return seen


class QuantisedLinear(nn.Module):
    """Computes as a linear layer in 8 bits would: states in one range, weights in one for each output channel."""

    def __init__(self, layer: nn.Linear, observed: Observed) -> None:
        super().__init__()
        low, high = min(observed.low, 0.0), max(observed.high, 0.0)
        self.step = max((high - low) / _LEVELS, 1e-12)
        self.zero = round(-low / self.step)
        scales = layer.weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        self.weight = (layer.weight / scales).round() * scales
        self.bias = layer.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the product, with rounding where 8 bits round."""
        coded = ((states / self.step).round() + self.zero).clamp(0, _LEVELS)
        return functional.linear((coded - self.zero) * self.step, self.weight, self.bias)


@contextmanager
def quantised(module: nn.Module, layers: Mapping[str, Observed]) -> Iterator[None]:
    """Lets some linear layers of a module round as in 8 bits while this is open; it and all that share them compute so."""
    plain = {name: module.get_submodule(name) for name in layers}
    try:
        for name, observed in layers.items():
            _replace(module, name, QuantisedLinear(plain[name], observed))  # type: ignore[arg-type]
        yield
    finally:
        for name, layer in plain.items():
            _replace(module, name, layer)


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    holder, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(holder), leaf, layer)


def _merged(first: Observed, second: Observed) -> Observed:
    largest = np.maximum(first.channel_max, second.channel_max)
    return Observed(min(first.low, second.low), max(first.high, second.high), largest)
