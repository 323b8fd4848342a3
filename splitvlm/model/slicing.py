"""Slices of transformers' own modules: shallow twins that share every weight with the whole.

A twin is a module object with its own table of children; the children are the originals, except those that are replaced.
Its forward is the original class's forward, so no network is written here: a slice of a stack is a twin whose layer list
is shorter, whose entrance lets given states through, or whose final norm is the identity.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def twin(module: M, **children: nn.Module) -> M:
    """Returns a shallow copy of `module` with some children replaced. Weights, buffers and hooks stay shared."""
    other = copy.copy(module)
    other.__dict__["_modules"] = dict(module._modules) | children
    return other


def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Calls the class's forward without its decorators, which record outputs in tables keyed by the original object."""
    return inspect.unwrap(type(module).forward)(module, *args, **kwargs)


class Inlet(nn.Module):
    """Stands in for the embeddings of a stack whose states are given: returns its first argument."""

    def forward(self, states: Any = None, **kwargs: Any) -> Any:
        """Returns the states that were passed in, in the place of the module that would have made them."""
        return states if states is not None else kwargs["pixel_values"]


def language_slice(stack: nn.Module, start: int, stop: int, *, ends: bool) -> nn.Module:
    """Returns layers [start, stop) of a language model, counting its layers from 0 again; `ends` keeps the final norm.

    The layer index is renumbered because masks and caches go by it (`past_key_values.get_seq_length()` asks layer 0).
    """
    layers: Any = stack.layers
    ours = nn.ModuleList([_renumbered(layers[i], i - start) for i in range(start, stop)])
    norm: Any = stack.norm if ends else nn.Identity()
    part = twin(stack, layers=ours, norm=norm)
    part.__dict__["config"] = _sliced_config(stack.config, start, stop)
    return part


def _renumbered(layer: Any, index: int) -> nn.Module:
    attention: nn.Module = twin(layer.self_attn)
    attention.__dict__["layer_idx"] = index
    other: nn.Module = twin(layer, self_attn=attention)
    if "layer_idx" in other.__dict__:
        other.__dict__["layer_idx"] = index
    return other


def _sliced_config(config: Any, start: int, stop: int) -> Any:
    part = copy.copy(config)
    part.__dict__.update(num_hidden_layers=stop - start)  # past the setter, which checks fields one by one
    types = getattr(config, "layer_types", None)
    if types is not None:
        part.__dict__.update(layer_types=list(types[start:stop]))
    return part
