"""A model's skeleton, which has no weights, and the loading of those weights that a part needs.

Parameters stand on torch's meta device (shapes without storage); buffers that follow from the config (rotary frequencies,
embedding scales) are real. A parameter that no part asked for stays on meta for good and takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from splitvlm.model.narrow import narrow_tower
from splitvlm.model.packed_linear import PackedLinear


def build_skeleton(config: Any, dtype: torch.dtype) -> Any:
    """Returns transformers' own model for `config` in evaluation mode, with parameters on meta and real buffers."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    # Drawing weights that have no storage would take most of the time.
    with init_empty_weights(include_buffers=False), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    narrow_tower(model)
    model.tie_weights()
    return model.eval().requires_grad_(False)


def load_weights(
    model: nn.Module, tensors: Iterable[tuple[str, torch.Tensor]], device: torch.device, dtype: torch.dtype
) -> None:
    """Replaces the named meta parameters by real ones in `dtype`, keeps tied ones tied, and moves the buffers to `device`."""
    tied = tied_names(model)
    for name, tensor in tensors:
        real = nn.Parameter(tensor.to(device=device, dtype=dtype), requires_grad=False)
        for alias in tied.get(name, (name,)):
            holder, _, leaf = alias.rpartition(".")
            model.get_submodule(holder).register_parameter(leaf, real)
    for module in model.modules():
        for leaf, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[leaf] = buffer.to(device)


def parameter_bytes(model: nn.Module) -> int:
    """Returns the bytes of the parameters that are loaded, packed ones included."""
    plain = sum(p.numel() * p.element_size() for p in model.parameters() if p.device.type != "meta")
    return plain + sum(module.weight_bytes for module in model.modules() if isinstance(module, PackedLinear))


def tied_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Returns all names of each shared parameter, by each of its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}
