"""The one training loop of all variants: seeded, stopped by Ctrl-C and gone on with, with loss and time left on show.

A lesson says what is learned; batch i is a function of (seed, i). The checkpoint holds parameters, optimizer and step, so that
a training that was stopped ends as one that was not. It is written every CHECKPOINT_S and on Ctrl-C, and removed by whoever has
used what was learned; the same command goes on from it.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from torch import nn

from splitvlm.errors import Cancelled
from splitvlm.variants.training_progress import show_training

CHECKPOINT_S = 120.0
CLIP = 1.0
BETAS = (0.9, 0.98)
LAST_RATE = 0.01  # of the peak rate, at the end
MOST_WARM_UP = 30  # steps


class Lesson(Protocol):
    """Says what is trained, by which loss."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """Returns what is trained, always in one order."""

    def loss(self, step: int) -> torch.Tensor:
        """Returns the loss of a step's batch, a function of the parameters and the step alone."""

    def after_step(self) -> None:
        """Restores what a step of the optimizer may not change, such as weights that are kept at zero."""


@dataclass(frozen=True)
class Schedule:
    """Holds how long and how fast is learned. `seed` is also the batches'."""

    steps: int
    rate: float
    seed: int = 0
    weight_decay: float = 0.01
    bfloat16: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """Names the file that keeps a training, and all that the training depends on besides its steps, as text."""

    path: Path
    identity: str = ""

    def resume(self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer) -> list[float]:
        """Restores what was saved of this training; returns the losses so far. Another training's file counts as none."""
        if not self.path.is_file():
            return []
        state = torch.load(self.path, weights_only=True)
        if state["identity"] != self.identity:
            return []
        for parameter, saved in zip(parameters, state["parameters"], strict=True):
            parameter.data.copy_(saved)
        optimizer.load_state_dict(state["optimizer"])
        losses: list[float] = state["losses"]
        return losses

    def save(self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
        """Writes the file, so that a crash meanwhile leaves the earlier one whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(f".{os.getpid()}")
        tensors = [parameter.detach() for parameter in parameters]
        state = {
            "identity": self.identity, "parameters": tensors, "optimizer": optimizer.state_dict(), "losses": losses,
        }  # fmt: skip
        torch.save(state, fresh)
        fresh.replace(self.path)

    def remove(self) -> None:
        """Removes the file and its folder, when what was learned is in use."""
        shutil.rmtree(self.path.parent, ignore_errors=True)


def train(lesson: Lesson, schedule: Schedule, checkpoint: Checkpoint, what: str) -> list[float]:
    """Trains to the end of the schedule, from the checkpoint where there is one; returns the losses of all steps.

    Raises Cancelled on Ctrl-C, when the step in hand is done and saved.
    """
    parameters = lesson.parameters()
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.rate, betas=BETAS, weight_decay=schedule.weight_decay, foreach=True
    )
    losses = checkpoint.resume(parameters, optimizer)
    saved_s = time.monotonic()
    with _interrupts() as stops, show_training(what, schedule.steps) as show:
        while len(losses) < schedule.steps:
            losses.append(_step(lesson, schedule, len(losses), parameters, optimizer))
            show(len(losses), losses[-1])
            if stops or time.monotonic() - saved_s > CHECKPOINT_S:
                checkpoint.save(parameters, optimizer, losses)
                saved_s = time.monotonic()
            if stops:
                raise Cancelled(
                    f"The training was stopped after {len(losses)} of {schedule.steps} steps; nothing is lost.",
                    advice="The same command goes on with it.",
                )
    checkpoint.save(parameters, optimizer, losses)
    return losses


def rate_share(step: int, steps: int) -> float:
    """Returns the share of the peak rate: a cosine down to LAST_RATE, after a linear warm-up."""
    warm_up = max(1, min(MOST_WARM_UP, steps // 10))
    cosine = LAST_RATE + (1 - LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
    return cosine * min(1.0, (step + 1) / warm_up)


def _step(
    lesson: Lesson, schedule: Schedule, step: int, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate * rate_share(step, schedule.steps)
    device = parameters[0].device.type
    with torch.enable_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=schedule.bfloat16):
        loss = lesson.loss(step)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    lesson.after_step()
    return float(loss.detach())


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Gives a list that fills when Ctrl-C comes, which otherwise does nothing meanwhile."""
    stops: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        stops.append(number)

    earlier = signal.signal(signal.SIGINT, note)
    try:
        yield stops
    finally:
        signal.signal(signal.SIGINT, earlier)
