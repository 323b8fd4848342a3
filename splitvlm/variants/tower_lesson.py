"""The lesson of a tower that learns the parent's visual tokens from unlabelled pictures, pruned or a student."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from splitvlm.variants.teacher import Teacher, tower_tokens

BATCH = 24  # tiles a step


class TowerLesson:
    """Teaches the tower and the connector of a model to make a teacher's tokens. `after_step` may be replaced."""

    def __init__(self, model: Any, teacher: Teacher, seed: int, after_step: Callable[[], None] | None = None) -> None:
        self._model = model
        self._teacher = teacher
        self._seed = seed
        self._after_step = after_step or (lambda: None)
        self._parameters = [*model.model.vision_model.parameters(), *model.model.connector.parameters()]
        for parameter in self._parameters:
            parameter.requires_grad_(True)

    def parameters(self) -> Sequence[nn.Parameter]:
        """Returns the weights of the tower and the connector."""
        return self._parameters

    def loss(self, step: int) -> torch.Tensor:
        """Returns the teacher's loss on the tiles of a step."""
        tiles = batch_of(len(self._teacher.tiles_NCHW), BATCH, self._seed, step)
        tokens_BVD = tower_tokens(self._model, self._teacher.batch(tiles, self._parameters[0].device))
        return self._teacher.loss(tokens_BVD, tiles)

    def after_step(self) -> None:
        """Restores what a step may not change."""
        self._after_step()


def batch_of(number: int, size: int, seed: int, step: int) -> torch.Tensor:
    """Returns the numbers of a step's items: each comes once in an epoch, in an order of that epoch's own."""
    size = min(size, number)
    epoch, index = divmod(step, number // size)
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    return order[index * size : (index + 1) * size]


def copied(model: Any) -> Any:
    """Returns a model whose tower, connector and configuration are copies; the language model is shared."""
    shared = {id(parameter): parameter for parameter in model.model.text_model.parameters()}
    shared |= {id(parameter): parameter for parameter in model.lm_head.parameters()}
    return copy.deepcopy(model, dict(shared))
