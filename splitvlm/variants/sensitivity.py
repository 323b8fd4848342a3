"""Measures how much each linear layer of a tower matters when it alone is quantised, and chooses which keep their precision.

Judged by answers, without labels: the divergence (Kullback-Leibler, in nats) of the first answer token's distribution from the
undivided model's, over sample questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median

import torch
from torch import nn

from splitvlm.model.parts import DevicePart
from splitvlm.variants.observing import Observed, linear_layers, quantised

SENSITIVE = 3.0  # times the median layer's divergence: less is a difference between layers, not a sensitive one

Inputs = Mapping[str, torch.Tensor]


def sensitivities(
    part: DevicePart,
    module: nn.Module,
    observed: Mapping[str, Observed],
    asked: Sequence[Inputs],
    done: Callable[[int], None],
) -> dict[str, float]:
    """Returns the mean divergence over `asked` where one layer is quantised, by the layers' names.

    `module` is the part's tower and connector; `asked` the processor's tensors of questions.
    """
    plain = [next_token_logits(part, inputs) for inputs in asked]
    divergences = {}
    for index, name in enumerate(linear_layers(module)):
        with quantised(module, {name: observed[name]}):
            divergences[name] = divergence(part, asked, plain)
        done(index + 1)
    return divergences


def divergence(part: DevicePart, asked: Sequence[Inputs], plain: Sequence[torch.Tensor]) -> float:
    """Returns how far the part's first answer tokens are from those with the logits `plain`."""
    return fmean(
        _divergence(next_token_logits(part, inputs), logits) for inputs, logits in zip(asked, plain, strict=True)
    )


@torch.inference_mode()
def next_token_logits(part: DevicePart, inputs: Inputs) -> torch.Tensor:
    """Returns the scores of an answer's first token, computed by the whole model."""
    run = part.language_run(0, part.spec.lm_layers, ends=True)
    return part.logits(run.prefill(part.embedded(part.all_visual_tokens(dict(inputs))))).float()


def kept_layers(divergences: Mapping[str, float], sizes: Mapping[str, int], most_weights: int) -> tuple[str, ...]:
    """Returns the layers that keep their precision: the most sensitive ones first, as far as their weights fit."""
    usual = median(divergences.values()) if divergences else 0.0
    kept: list[str] = []
    left = most_weights
    for name in sorted(divergences, key=lambda name: divergences[name], reverse=True):
        if divergences[name] > SENSITIVE * usual and sizes[name] <= left:
            kept.append(name)
            left -= sizes[name]
    return tuple(kept)


def _divergence(logits: torch.Tensor, plain: torch.Tensor) -> float:
    expected, computed = plain.double().log_softmax(-1), logits.double().log_softmax(-1)
    return max(0.0, float((expected.exp() * (expected - computed)).sum()))
