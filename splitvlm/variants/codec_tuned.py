"""The kind `codec-tuned`: a connector that has learned to live with one codec level at `tokens`.

The tower stays the parent's, and so does the cloud. The connector learns that what arrives after coding is what the parent's
answers need of its tokens: it leaves out what no answer needs, so that channels have smaller ranges and the codes' steps are
finer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from splitvlm.codec.codec import Codec
from splitvlm.domain import TOKENS
from splitvlm.errors import UsageError
from splitvlm.variants import teaching
from splitvlm.variants.coded_tokens import coded
from splitvlm.variants.folder import Made
from splitvlm.variants.making import Making, Option
from splitvlm.variants.teacher import Teacher
from splitvlm.variants.tower_lesson import batch_of, copied
from splitvlm.variants.weights import FILES, save_tower

OPTIONS: dict[str, Option] = {"level": "int2", **teaching.OPTIONS, "rate": 1e-3}
BATCH = 16  # tiles a step
STATES_BATCH = 24  # tiles that the tower sees at once


class CodecLesson:
    """Teaches a connector that its tokens, once coded, are the teacher's. The tower's states are computed once."""

    def __init__(self, model: Any, teacher: Teacher, codec: Codec, level: str, seed: int) -> None:
        self._connector = model.model.connector.requires_grad_(True)
        self._teacher, self._codec, self._level, self._seed = teacher, codec, level, seed
        self._parameters = list(self._connector.parameters())
        self._states_NPD = _states(model, teacher)

    def parameters(self) -> Sequence[nn.Parameter]:
        """Returns the connector's weights."""
        return self._parameters

    def loss(self, step: int) -> torch.Tensor:
        """Returns the teacher's loss of coded tokens."""
        tiles = batch_of(len(self._states_NPD), BATCH, self._seed, step)
        tokens_BVD = self._connector(self._states_NPD[tiles].to(self._parameters[0].device).float())
        return self._teacher.loss(coded(self._codec, self._level, tokens_BVD), tiles)

    def after_step(self) -> None:
        """Restores nothing: all of the connector may change."""


def make_codec_tuned(making: Making) -> Made:
    """Teaches the connector the level that the option `level` names. Raises UsageError, Cancelled."""
    level, codec = str(making.options["level"]), making.bundle.codec
    if level not in codec.levels(TOKENS) or level == "lossless":
        lossy = ", ".join(name for name in codec.levels(TOKENS) if name != "lossless")
        raise UsageError(f"{making.model} has no lossy level '{level}' at {TOKENS}.", advice=f"Levels are {lossy}.")
    parent, teacher = teaching.asked_teacher(making)
    model = copied(parent)
    lesson = CodecLesson(model, teacher.for_answers(), codec, level, making.seed)
    how = teaching.learn(making, lesson)
    return Made((TOKENS,), save_tower(making.folder, model), weights=FILES, how=how)


@torch.no_grad()
def _states(model: Any, teacher: Teacher) -> torch.Tensor:
    """Returns what enters the connector, float16 [N, P, D]."""
    device = next(model.parameters()).device
    states = [
        model.model.vision_model(pixel_values=tiles.to(device).float()).last_hidden_state.half().cpu()
        for tiles in teacher.tiles_NCHW.split(STATES_BATCH)
    ]
    return torch.cat(states)
