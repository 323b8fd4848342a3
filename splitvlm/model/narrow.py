"""Vision towers whose layers differ in width, as pruning leaves them: transformers' own modules with narrower linear layers.

A pruned tower's configuration holds two lists beside its other sizes, one number a layer:

    vision_config.layer_heads                 attention heads (each as wide as the unpruned tower's)
    vision_config.layer_intermediate_sizes    channels of the MLP

Towers of SigLIP's form are known: `self_attn` with q_proj, k_proj, v_proj and out_proj, `mlp` with fc1 and fc2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from splitvlm.errors import UsageError
from splitvlm.model.families import family_of

HEADS, CHANNELS = "layer_heads", "layer_intermediate_sizes"


def narrow_tower(model: Any) -> None:
    """Gives a tower whose weights are on meta the widths that its configuration lists; others stay as they are.

    Raises UsageError where the lists do not fit the tower.
    """
    vision: Any = getattr(model.config, "vision_config", None)
    heads: Any = getattr(vision, HEADS, None)
    channels: Any = getattr(vision, CHANNELS, None)
    if heads is None and channels is None:
        return
    layers = family_of(model.config.model_type, "This model").vision_layers(model)
    for name, widths, most in (
        (HEADS, heads, vision.num_attention_heads),
        (CHANNELS, channels, vision.intermediate_size),
    ):
        if not _fits(widths, len(layers), most):
            raise UsageError(
                f"The configuration's vision_config.{name} does not hold {len(layers)} numbers from 1 to {most}.",
                advice="The variant is damaged: make it again.",
            )
    for layer, num_heads, num_channels in zip(layers, heads, channels, strict=True):
        _narrow_layer(layer, num_heads, num_channels)


def keep_units(layer: Any, heads: Sequence[int], channels: Sequence[int]) -> None:
    """Removes all but some heads and channels from a layer whose weights are loaded; their weights stay as they were."""
    attention, mlp = layer.self_attn, layer.mlp
    width = attention.head_dim
    kept = torch.tensor([index for head in heads for index in range(head * width, (head + 1) * width)])
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, _kept_rows(getattr(attention, name), kept))
    attention.out_proj = _kept_columns(attention.out_proj, kept)
    attention.num_heads = len(heads)
    mlp.fc1 = _kept_rows(mlp.fc1, torch.tensor(channels))
    mlp.fc2 = _kept_columns(mlp.fc2, torch.tensor(channels))


def set_widths(model: Any) -> None:
    """Writes the widths and the number of a tower's layers into its configuration."""
    layers: Any = family_of(model.config.model_type, "This model").vision_layers(model)
    vision = model.config.vision_config
    vision.num_hidden_layers = len(layers)
    setattr(vision, HEADS, [layer.self_attn.num_heads for layer in layers])
    setattr(vision, CHANNELS, [layer.mlp.fc1.out_features for layer in layers])


def _fits(widths: Any, layers: int, most: int) -> bool:
    whole = isinstance(widths, list) and all(type(width) is int and 1 <= width <= most for width in widths)
    return whole and len(widths) == layers


def _narrow_layer(layer: Any, num_heads: int, num_channels: int) -> None:
    attention, mlp = layer.self_attn, layer.mlp
    hidden, inner = attention.embed_dim, num_heads * attention.head_dim
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, _like(getattr(attention, name), hidden, inner))
    attention.out_proj = _like(attention.out_proj, inner, hidden)
    attention.num_heads = num_heads
    mlp.fc1 = _like(mlp.fc1, hidden, num_channels)
    mlp.fc2 = _like(mlp.fc2, num_channels, hidden)


def _like(linear: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    weight = linear.weight
    made = nn.Linear(inputs, outputs, linear.bias is not None, device=weight.device, dtype=weight.dtype)
    return made.requires_grad_(weight.requires_grad)


def _kept_rows(linear: nn.Linear, kept: torch.Tensor) -> nn.Linear:
    made = _like(linear, linear.in_features, len(kept))
    made.weight.data.copy_(linear.weight.data[kept])
    if linear.bias is not None:
        made.bias.data.copy_(linear.bias.data[kept])
    return made


def _kept_columns(linear: nn.Linear, kept: torch.Tensor) -> nn.Linear:
    made = _like(linear, len(kept), linear.out_features)
    made.weight.data.copy_(linear.weight.data[:, kept])
    if linear.bias is not None:
        made.bias.data.copy_(linear.bias.data)
    return made
