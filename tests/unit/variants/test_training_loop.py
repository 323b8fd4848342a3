"""The training loop: a training that was stopped ends as one that was not, the loss falls, and Ctrl-C saves what is learned."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from splitvlm.errors import Cancelled
from splitvlm.variants.tower_lesson import batch_of
from splitvlm.variants.training import Checkpoint, Schedule, rate_share, train

SCHEDULE = Schedule(steps=40, rate=0.05, seed=3)


class Line:
    """Learns a linear map from batches that are a function of the step."""

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.at_step = at_step

    def parameters(self) -> list[nn.Parameter]:
        return list(self.layer.parameters())

    def loss(self, step: int) -> torch.Tensor:
        self.at_step(step)
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (self.layer(x) - x[:, :2] * 2).square().mean()

    def after_step(self) -> None:
        self.layer.bias.data[0] = 0


def interrupt_at(stop: int) -> Callable[[int], None]:
    return lambda step: os.kill(os.getpid(), signal.SIGINT) if step == stop else None


def test_a_stopped_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = Line()
    losses = train(whole, SCHEDULE, Checkpoint(tmp_path / "whole" / "checkpoint.pt"), "whole")
    with pytest.raises(Cancelled, match="after 18 of 40 steps"):
        train(Line(interrupt_at(17)), SCHEDULE, Checkpoint(tmp_path / "checkpoint.pt"), "stopped")
    resumed = Line()
    assert train(resumed, SCHEDULE, Checkpoint(tmp_path / "checkpoint.pt"), "resumed") == losses
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_loss_falls_and_what_is_kept_at_zero_stays(tmp_path: Path) -> None:
    lesson = Line()
    losses = train(lesson, SCHEDULE, Checkpoint(tmp_path / "checkpoint.pt"), "line")
    assert sum(losses[-5:]) < sum(losses[:5]) / 3
    assert lesson.layer.bias[0] == 0


def test_another_training_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    train(Line(), SCHEDULE, Checkpoint(path, "one"), "line")
    assert len(train(Line(), Schedule(steps=5, rate=0.1), Checkpoint(path, "other"), "line")) == 5


def test_each_item_comes_once_in_an_epoch() -> None:
    epoch = torch.cat([batch_of(12, 4, seed=1, step=step) for step in range(3)])
    assert sorted(epoch.tolist()) == list(range(12))
    assert not torch.equal(batch_of(12, 4, seed=1, step=3), epoch[:4]), "the next epoch has another order"
    assert len(batch_of(3, 24, seed=0, step=7)) == 3


def test_the_rate_rises_then_falls() -> None:
    shares = [rate_share(step, 100) for step in range(100)]
    assert shares[0] < shares[9] > shares[50] > shares[99] > 0
