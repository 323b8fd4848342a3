"""Compares a variant with its parent: visual tokens and answers on drawn pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from splitvlm.domain import DEVICE, TOKENS, Plan
from splitvlm.errors import UsageError
from splitvlm.local_model import LocalModel
from splitvlm.model.boundary import HIDDEN
from splitvlm.model.prompt import Prompt
from splitvlm.scenes.samples import samples
from splitvlm.variants.measure import open_variant


@dataclass(frozen=True, slots=True)
class Agreement:
    """Tells how far a variant is from its parent. Errors are relative to the parent's visual tokens."""

    variant: str
    hash: str
    pictures: int
    rms_error: float  # of the differences, relative to that of the values
    largest_error: float  # of all differences, relative to the largest value
    same_answers: float  # share of answers whose tokens are the parent's


def check_variant(folder: Path, pictures: int, most_error: float) -> dict[str, object]:
    """Returns an Agreement as JSON has it, with "within": whether `rms_error` is at most `most_error`. Raises UsageError."""
    variant, bundle = open_variant(folder)
    if TOKENS not in variant.cuts:
        raise UsageError(
            f"The variant {variant.name} has no visual tokens to compare: it serves {DEVICE} alone.",
            advice="`splitvlm variant measure` compares its answers.",
        )
    model = LocalModel.load(bundle.spec.name, [TOKENS], bundle=bundle, variants=[variant])
    errors: list[torch.Tensor] = []
    values: list[torch.Tensor] = []
    same = 0
    for image, question in samples(pictures, bundle.spec.name):
        own, other = (
            model.boundary(Prompt.about(image, question), TOKENS, name).tensors[HIDDEN].float()
            for name in ("full", variant.name)
        )
        errors.append((other - own).flatten())
        values.append(own.flatten())
        plans = Plan(TOKENS, "lossless"), Plan(TOKENS, "lossless", variant.name)
        first, second = (model.answer(Prompt.about(image, question), plan).token_ids for plan in plans)
        same += first == second
    agreement = _agreement(torch.cat(errors), torch.cat(values))
    result = Agreement(variant.name, variant.hash, pictures, *agreement, same / pictures)
    return {**asdict(result), "within": result.rms_error <= most_error}


def _agreement(errors: torch.Tensor, values: torch.Tensor) -> tuple[float, float]:
    rms = errors.square().mean().sqrt() / values.square().mean().sqrt()
    return float(rms), float(errors.abs().max() / values.abs().max())
