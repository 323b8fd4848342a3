"""A model without its weights, and the putting in of those that a part needs.

Parameters stand on torch's meta device (shapes without storage); buffers that follow from the config (rotary frequencies,
embedding scales) are real. A parameter that no part asked for stays on meta for good and takes no memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


def build_skeleton(config: Any, dtype: torch.dtype) -> Any:
    """transformers' own model class for `config`, parameters on meta, in evaluation mode."""
    from transformers import AutoModelForImageTextToText

    with _parameters_on_meta():
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.tie_weights()
    return model.eval().requires_grad_(False)


def put(
    model: nn.Module, tensors: Iterable[tuple[str, torch.Tensor]], device: torch.device, dtype: torch.dtype
) -> None:
    """Replace meta parameters by real ones, keep tied ones tied, and move the buffers to `device`."""
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
    """Bytes of the parameters that are really there."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.device.type != "meta")


def tied_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """All names of each shared parameter, by each of its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Every parameter that is registered goes to meta at once (as accelerate's `init_empty_weights` does)."""
    original = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        original(module, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]
