"""Repairs a pruned tower without training: its output projections are refitted to the parent's states, layer by layer.

What is left of a layer must now stand in for what was removed. The weights of attention's output projection and of the MLP's
second layer are those of a least-squares fit, drawn towards their old values (Kwon et al., NeurIPS 2022, tune masks in this
way); each fit also mends what the layers before it got wrong.

    N tokens of all tiles, K inputs of a projection, D the tower's width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

RIDGE = 1e-3  # of the inputs' mean square


@dataclass(frozen=True)
class _Observed:
    """Holds what passes through one layer."""

    attended: torch.Tensor  # the input of attention's output projection
    middle: torch.Tensor  # the states between attention and MLP
    inner: torch.Tensor  # the input of the MLP's second layer
    states: torch.Tensor  # the layer's output


@torch.inference_mode()
def refit(parent_tower: Any, tower: Any, layers: Sequence[int], tiles_NCHW: torch.Tensor) -> None:
    """Refits a tower that has some of the parent's layers, by their numbers; each stands in for those up to the next."""
    device = next(tower.parameters()).device
    states = target = _embedded(parent_tower, tiles_NCHW.to(device))
    parents = parent_tower.encoder.layers
    stops = [*(layer for layer in layers[1:]), len(parents)]  # the last layer answers for all that follow
    start = 0
    for layer, stop in zip(tower.encoder.layers, stops, strict=True):
        for parent in parents[start:stop]:
            seen = _observe(parent, target)
            target = seen.states
        _fit(layer.self_attn.out_proj, _observe(layer, states).attended, seen.middle - states)
        ours = _observe(layer, states)
        _fit(layer.mlp.fc2, ours.inner, target - ours.middle)
        states = _observe(layer, states).states
        start = stop


def _embedded(tower: Any, tiles_NCHW: torch.Tensor) -> torch.Tensor:
    """Returns what enters the first layer, which both towers share."""
    kept: list[torch.Tensor] = []
    hook = tower.encoder.layers[0].register_forward_pre_hook(lambda _module, arguments: kept.append(arguments[0]))
    try:
        tower(pixel_values=tiles_NCHW.float())
    finally:
        hook.remove()
    return kept[0]


def _observe(layer: Any, states: torch.Tensor) -> _Observed:
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, arguments: kept.__setitem__(name, arguments[0])

    hooks = [
        layer.self_attn.out_proj.register_forward_pre_hook(keep("attended")),
        layer.layer_norm2.register_forward_pre_hook(keep("middle")),
        layer.mlp.fc2.register_forward_pre_hook(keep("inner")),
    ]
    try:
        return _Observed(states=layer(states, None), **kept)
    finally:
        for hook in hooks:
            hook.remove()


def _fit(linear: Any, inputs: torch.Tensor, wanted: torch.Tensor) -> None:
    """Moves a projection's weights and bias to where its outputs come closest to the wanted ones."""
    left_ND = (wanted - linear(inputs)).flatten(0, -2).double()
    inputs_NK = inputs.flatten(0, -2).double()
    inputs_NK = torch.cat([inputs_NK, inputs_NK.new_ones(len(inputs_NK), 1)], 1)
    gram_KK = inputs_NK.T @ inputs_NK
    ridge = RIDGE * gram_KK.diagonal().mean()
    change_KD = torch.linalg.solve(gram_KK + ridge * torch.eye(len(gram_KK)).to(gram_KK), inputs_NK.T @ left_ND).float()
    linear.weight.data += change_KD[:-1].T
    linear.bias.data += change_KD[-1]
