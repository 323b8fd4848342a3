"""The kind `pruned`: a tower without the heads, MLP channels and layers that matter least, so that it is smaller and faster.

    rank      what each part is worth, by the tokens and the answers            importance.py
    choose    what stays, for the share of parameters that goes
    refit     projections that stand in for what went, by least squares         refit.py
    recover   a short training on the parent's tokens, without labels           tower_lesson.py

The cloud's upper part, the codec's levels and the prompt stay the parent's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from splitvlm.domain import DEVICE, TOKENS
from splitvlm.errors import UsageError
from splitvlm.model.narrow import keep_units, set_widths
from splitvlm.variants import teaching
from splitvlm.variants.folder import Made
from splitvlm.variants.importance import Kept, choose, rank
from splitvlm.variants.making import Making, Option
from splitvlm.variants.refit import refit
from splitvlm.variants.tower_lesson import copied
from splitvlm.variants.weights import FILES, save_tower

RANKED, REFITTED = 96, 96  # tiles
OPTIONS: dict[str, Option] = {"share": 0.3, **teaching.OPTIONS}


def make_pruned(making: Making) -> Made:
    """Prunes the share of parameters that the option `share` names, and recovers what was lost. Raises UsageError."""
    share = float(making.options["share"])
    if not 0 < share < 1:
        raise UsageError(f"A share of {share} cannot be pruned.", advice="The option share lies between 0 and 1.")
    model, teacher = teaching.asked_teacher(making)
    importances = rank(model, _layers(model), teacher.tiles_NCHW[:RANKED], teacher.metric_DD)
    kept = choose(importances, share)
    pruned = prune(model, kept, teacher.tiles_NCHW[:REFITTED])
    how = teaching.teach(making, pruned, teacher)
    return Made((TOKENS, DEVICE), save_tower(making.folder, pruned), weights=FILES, how={**how, **described(kept)})


def prune(parent: Any, kept: Sequence[Kept], tiles_NCHW: torch.Tensor) -> Any:
    """Returns a model with what stays of the parent's tower, refitted on some tiles."""
    model = copied(parent)
    layers = _layers(model)
    for entry in kept:
        keep_units(layers[entry.layer], entry.heads, entry.channels)
    model.model.vision_model.encoder.layers = nn.ModuleList([layers[entry.layer] for entry in kept])
    set_widths(model)
    refit(parent.model.vision_model, model.model.vision_model, [entry.layer for entry in kept], tiles_NCHW)
    return model


def described(kept: Sequence[Kept]) -> dict[str, object]:
    """Returns what stays, for the manifest: a line for each layer."""
    return {"kept": [f"layer {e.layer}: {len(e.heads)} heads, {len(e.channels)} channels" for e in kept]}


def _layers(model: Any) -> Any:
    return model.model.vision_model.encoder.layers
