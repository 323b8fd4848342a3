"""The kinds `magnitude` and `sparse-2-4`: single weights at zero, the baselines beside the kind `pruned`.

Their files and their time are the parent's: a dense product multiplies zeros too. Two of four in a row are the pattern that
NVIDIA's sparse tensor cores skip (Mishra et al., arXiv 2104.08378); no processor here does. Both recover as pruned towers do,
with the zeros kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from splitvlm.domain import DEVICE, TOKENS
from splitvlm.errors import UsageError
from splitvlm.variants import teaching
from splitvlm.variants.folder import Made
from splitvlm.variants.making import Making, Option
from splitvlm.variants.tower_lesson import copied
from splitvlm.variants.weights import FILES, save_tower

MAGNITUDE_OPTIONS: dict[str, Option] = {"share": 0.3, **teaching.OPTIONS}
SPARSE_OPTIONS: dict[str, Option] = dict(teaching.OPTIONS)
Mask = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


def make_magnitude(making: Making) -> Made:
    """Keeps the weights of the largest magnitude among all layers of the tower. Raises UsageError."""
    share = float(making.options["share"])
    if not 0 < share < 1:
        raise UsageError(f"A share of {share} cannot be pruned.", advice="The option share lies between 0 and 1.")
    return _make(making, lambda weights: largest(weights, share))


def make_sparse(making: Making) -> Made:
    """Keeps the two largest of each four weights in a row."""
    return _make(making, lambda weights: [two_of_four(weight) for weight in weights])


def largest(weights: Sequence[torch.Tensor], share: float) -> list[torch.Tensor]:
    """Returns masks, True where a weight stays: all but the `share` of the smallest magnitude, among all together."""
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    limit = magnitudes.kthvalue(max(1, round(share * len(magnitudes)))).values
    return [weight.abs() > limit for weight in weights]


def two_of_four(weight_OI: torch.Tensor) -> torch.Tensor:
    """Returns the mask [O, I] of the two largest of each four inputs in a row; I divides by four."""
    fours = weight_OI.abs().unflatten(1, (-1, 4))
    kept = fours.topk(2, dim=-1).indices
    return torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, kept, True).flatten(1)


def _make(making: Making, mask: Mask) -> Made:
    parent, teacher = teaching.asked_teacher(making)
    model = copied(parent)
    linears = [m for m in model.model.vision_model.encoder.layers.modules() if isinstance(m, nn.Linear)]
    masks = mask([linear.weight.data for linear in linears])

    def zero() -> None:
        for linear, kept in zip(linears, masks, strict=True):
            linear.weight.data *= kept

    zero()
    how = teaching.teach(making, model, teacher, after_step=zero)
    zeros = sum(int((~kept).sum()) for kept in masks)
    parameters = save_tower(making.folder, model)
    return Made((TOKENS, DEVICE), parameters, weights=FILES, how={**how, "zeros": zeros})
