"""Ranks the parts of a tower by what their removal would change of the visual tokens, in the metric of the answers.

Heads and MLP channels are ranked by the first order of a gate's removal (Molchanov et al., CVPR 2019): the gradient of the
tokens by the gate, projected on random directions, squared. Whole layers are few, so that each is left out for once and the
change measured.

    N tiles, V visual tokens, D their width, H heads of a layer, C channels of its MLP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from splitvlm.variants.teacher import tower_tokens

BATCH = 12  # tiles
DIRECTIONS = 4  # random ones, for each batch of tiles
CHANNEL_BLOCK = 16  # channels that stay or go together: what processors multiply at once


@dataclass(frozen=True)
class LayerImportance:
    """Holds the changes of the tokens that each head, each channel, and the layer as a whole are worth."""

    heads: tuple[float, ...]
    channels: tuple[float, ...]
    layer: float
    head_parameters: int
    channel_parameters: int

    @property
    def parameters(self) -> int:
        """Returns how many parameters of the layer belong to heads and channels."""
        return len(self.heads) * self.head_parameters + len(self.channels) * self.channel_parameters


@dataclass(frozen=True)
class Kept:
    """Names the heads and channels of one layer that stay, by their numbers in the parent's layer."""

    layer: int
    heads: tuple[int, ...]
    channels: tuple[int, ...]


def rank(model: Any, layers: Sequence[Any], tiles_NCHW: torch.Tensor, metric_DD: torch.Tensor) -> list[LayerImportance]:
    """Returns the importance of each layer of a tower and of its parts."""
    device = next(model.parameters()).device
    tiles_NCHW = tiles_NCHW.to(device)
    root_DD = torch.linalg.cholesky(metric_DD.double() + 1e-9 * torch.eye(len(metric_DD))).float().to(device)
    gradients = _gate_gradients(model, layers, tiles_NCHW, root_DD)
    whole = _without_each(model, layers, tiles_NCHW, root_DD)
    return [
        LayerImportance(
            heads=tuple(heads_H.tolist()),
            channels=tuple(channels_C.tolist()),
            layer=change,
            head_parameters=(4 * layer.self_attn.embed_dim + 3) * layer.self_attn.head_dim,
            channel_parameters=2 * layer.self_attn.embed_dim + 1,
        )
        for layer, (heads_H, channels_C), change in zip(layers, gradients, whole, strict=True)
    ]


def choose(importances: Sequence[LayerImportance], share: float) -> list[Kept]:
    """Returns what stays when at least `share` of the parameters of all layers go: first what costs least for each parameter.

    A layer that stays keeps a head and a block of channels at the least.
    """
    heads = [set(range(len(layer.heads))) for layer in importances]
    blocks = [_blocks(layer) for layer in importances]
    goal = share * sum(layer.parameters for layer in importances)
    removed = 0
    for _, index, kind, number in sorted(_units(importances, blocks)):
        if removed >= goal:
            break
        layer = importances[index]
        if kind == "head" and number in heads[index] and len(heads[index]) > 1:
            heads[index].remove(number)
            removed += layer.head_parameters
        elif kind == "block" and number in blocks[index] and len(blocks[index]) > 1:
            removed += len(blocks[index].pop(number)) * layer.channel_parameters
        elif kind == "layer" and sum(map(bool, heads)) > 1:
            left = sum(map(len, blocks[index].values())) * layer.channel_parameters
            removed += left + len(heads[index]) * layer.head_parameters
            heads[index], blocks[index] = set(), {}
    return [
        Kept(index, tuple(sorted(heads[index])), tuple(sorted(chain.from_iterable(blocks[index].values()))))
        for index in range(len(importances))
        if heads[index]
    ]


def _blocks(layer: LayerImportance) -> dict[int, list[int]]:
    """Returns the channels in blocks, by importance: the first block holds the least important."""
    order = sorted(range(len(layer.channels)), key=lambda channel: layer.channels[channel])
    return {
        number: order[start : start + CHANNEL_BLOCK] for number, start in enumerate(range(0, len(order), CHANNEL_BLOCK))
    }


def _units(
    importances: Sequence[LayerImportance], blocks: Sequence[dict[int, list[int]]]
) -> Iterator[tuple[float, int, str, int]]:
    """Yields (change for each parameter, layer, kind, number) of all that can be removed."""
    for index, layer in enumerate(importances):
        yield layer.layer / layer.parameters, index, "layer", 0
        for head, change in enumerate(layer.heads):
            yield change / layer.head_parameters, index, "head", head
        for number, channels in blocks[index].items():
            change = sum(layer.channels[channel] for channel in channels)
            yield change / (len(channels) * layer.channel_parameters), index, "block", number


def _gate_gradients(
    model: Any, layers: Sequence[Any], tiles_NCHW: torch.Tensor, root_DD: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns the mean squared gradients of all heads [H] and channels [C], layer by layer."""
    generator = torch.Generator().manual_seed(0)
    sums: list[torch.Tensor] = []
    for batch_NCHW in tiles_NCHW.split(BATCH):
        with _gates(layers, len(batch_NCHW)) as gates, torch.enable_grad():
            changes_NVD = tower_tokens(model, batch_NCHW.float()) @ root_DD
            for _ in range(DIRECTIONS):
                direction_NVD = torch.randn(changes_NVD.shape, generator=generator).to(changes_NVD.device)
                gradients = torch.autograd.grad((changes_NVD * direction_NVD).sum(), gates, retain_graph=True)
                squares = [gradient.square().sum(0) for gradient in gradients]
                sums = squares if not sums else [total + more for total, more in zip(sums, squares, strict=True)]
    means = [total / (len(tiles_NCHW) * DIRECTIONS) for total in sums]
    return list(zip(means[::2], means[1::2], strict=True))


@contextmanager
def _gates(layers: Sequence[Any], num_tiles: int) -> Iterator[list[torch.Tensor]]:
    """Gives gates of ones, [N, H] and [N, C] of each layer in turn, which multiply what its heads and channels give."""
    gates, hooks = [], []
    for layer in layers:
        attention = layer.self_attn
        for linear, width in ((attention.out_proj, attention.head_dim), (layer.mlp.fc2, 1)):
            gate = linear.weight.new_ones(num_tiles, linear.in_features // width).requires_grad_(True)
            hooks.append(linear.register_forward_pre_hook(_multiply_by(gate, width)))
            gates.append(gate)
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()


def _multiply_by(gate: torch.Tensor, width: int) -> Any:
    def hook(_module: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (arguments[0] * gate.repeat_interleave(width, dim=1)[:, None],)

    return hook


@torch.inference_mode()
def _without_each(model: Any, layers: Sequence[Any], tiles_NCHW: torch.Tensor, root_DD: torch.Tensor) -> list[float]:
    """Returns the mean squared change of a tile's tokens when one layer passes its input on."""
    changes = [0.0] * len(layers)
    for batch_NCHW in tiles_NCHW.split(BATCH):
        tokens_NVD = tower_tokens(model, batch_NCHW.float())
        for index, layer in enumerate(layers):
            hook = layer.register_forward_hook(lambda _module, arguments, _output: arguments[0])
            try:
                error_NVD = (tower_tokens(model, batch_NCHW.float()) - tokens_NVD) @ root_DD
            finally:
                hook.remove()
            changes[index] += float(error_NVD.square().sum()) / len(tiles_NCHW)
    return changes
