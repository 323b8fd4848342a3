"""Linear layers whose weights lie as oneDNN's kernels read them: packed once at load, not anew at each call.

On CPUs a product of few tokens with a packed weight takes about half to four fifths of the time, one of a thousand tokens
little less than before; `benchmarks/packed_linear.py` prints it. In bfloat16 the values are the plain layer's; in float32 sums
are rounded in another order.

Source: torch.ops.mkldnn._reorder_linear_weight and _linear_pointwise, by which torch's own compiler freezes linear layers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeGuard

import torch
from torch import nn


class PackedLinear(nn.Module):
    """Stands in for an `nn.Linear` on a CPU, without gradients. Its weight cannot be read, only multiplied with."""

    weight: torch.Tensor  # opaque; shape, dtype and device are the plain weight's
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach()))
        self.register_parameter("bias", linear.bias)

    @property
    def weight_bytes(self) -> int:
        """Returns how many bytes the weight takes."""
        return self.weight.numel() * self.weight.dtype.itemsize

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns `states` [..., in_features] times the weight, plus the bias: [..., out_features]."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
        return product


def pack_linears(model: nn.Module, *, tied: bool) -> None:
    """Replaces the model's linear layers that are loaded on the CPU, one after another, so that little is held twice.

    Weights on the meta device stay, and so do all where this build of torch or this processor does not pack their dtype.
    A weight that an embedding shares is packed only if `tied`: it is held twice then.
    """
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if _is_packable(child) and (tied or id(child.weight) not in shared):
                setattr(parent, name, PackedLinear(child))


def _is_packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    return type(module) is nn.Linear and module.weight.device.type == "cpu" and can_pack(module.weight.dtype)


@lru_cache(maxsize=4)
def can_pack(dtype: torch.dtype) -> bool:
    """Tells whether weights of this dtype can be packed here, and multiplied with faster than plain ones."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(torch.ones(16, 16, dtype=dtype))
        torch.ops.mkldnn._linear_pointwise(torch.ones(1, 16, dtype=dtype), packed, None, "none", [], "")
    except (RuntimeError, NotImplementedError):
        return False
    return True
