"""Learns a level's Reconstructor (reconstruction.py) from unlabelled pictures: mean square error, on nine pictures in ten.

Seeded: the same coefficients give the same network on one machine. T tokens of a picture, N of all, C columns, H hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from splitvlm.codec.entropy_model import F32, companded
from splitvlm.codec.grid import PLACES, offsets, places_of, rows_in
from splitvlm.codec.reconstruction import COLUMNS, HIDDEN_UNITS, RESTORED, TOKENS, UNIT, Reconstructor

STEPS: Final = 3000
BATCH: Final = 1024  # tokens
RATE: Final = 2e-3
DECAY: Final = 0.05
ALONE: Final = 0.1  # of the tokens are shown without neighbours, as a token of an answer crosses at `lm:k`
HELD_OUT: Final = 10  # one picture in so many says whether it helps
LEAST_GAIN: Final = 0.1
Whole = npt.NDArray[np.signedinteger[Any]]


class ReconstructionNetwork(nn.Module):
    """Restores coefficients from all others by two hidden layers; `Reconstructor` is what is kept of it."""

    def __init__(self, seen: int, places: int, restored: int) -> None:
        super().__init__()
        self.first = nn.Linear(TOKENS * seen + places, HIDDEN_UNITS)
        self.second = nn.Linear(HIDDEN_UNITS, HIDDEN_UNITS)
        self.third = nn.Linear(HIDDEN_UNITS, restored)
        nn.init.zeros_(self.third.weight)

    def forward(self, x_NX: torch.Tensor) -> torch.Tensor:
        """Returns the restored coefficients, float32 [N, columns], of inputs [N, X]."""
        hidden = functional.relu(self.second(functional.relu(self.first(x_NX))))
        restored: torch.Tensor = self.third(hidden)
        return restored


def learn(
    pictures: Sequence[tuple[Whole, F32]], stride: int, *, steps: int = STEPS, least_gain: float = LEAST_GAIN
) -> Reconstructor | None:
    """Learns from q [T, C] and what is left of y / step - restored q [T, C] of each picture.

    None where too little is gained.
    """
    seen, restored = (min(limit, pictures[0][0].shape[1]) for limit in (COLUMNS, RESTORED))
    torch.manual_seed(0)
    held = pictures[HELD_OUT - 1 :: HELD_OUT]
    training_pictures = [picture for index, picture in enumerate(pictures) if index % HELD_OUT != HELD_OUT - 1]
    rows = rows_in((len(q_TC) for q_TC, _ in pictures), stride)
    network = ReconstructionNetwork(seen, PLACES if rows else 0, restored)
    inputs, left = _stacked(training_pictures, stride, rows, seen, restored)
    _train(network, inputs, left, slice(seen, TOKENS * seen), steps)
    if held:
        inputs, left = _stacked(held, stride, rows, seen, restored)
        with torch.no_grad():
            after = float((left - network(inputs)).square().mean())
        if after > (1 - least_gain) * float(left.square().mean()):
            return None
    first_XH = network.first.weight.T
    parts = (
        first_XH[: TOKENS * seen].unflatten(0, (TOKENS, seen)),
        network.first.bias,
        first_XH[TOKENS * seen :],
        network.second.weight.T,
        network.second.bias,
        network.third.weight.T,
        network.third.bias,
    )
    return Reconstructor(stride, rows, *(np.ascontiguousarray(part.detach().numpy()) for part in parts))


def _stacked(
    pictures: Sequence[tuple[Whole, F32]], stride: int, rows: int, seen: int, restored: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns inputs [N, X] and targets [N, R]."""
    inputs = np.concatenate([_inputs(q_TC[:, :seen], stride, rows) for q_TC, _ in pictures])
    return torch.from_numpy(inputs), torch.from_numpy(
        np.concatenate([left_TC[:, :restored] for _, left_TC in pictures])
    )


def _inputs(q_TK: Whole, stride: int, rows: int) -> F32:
    """Returns inputs [T, TOKENS · K + places], zero beyond the ends."""
    margin = max(1, stride)
    padded = np.pad(companded(q_TK) / UNIT, ((margin, margin), (0, 0)))
    seen = [padded[margin + offset : margin + offset + len(q_TK)] for offset in (0, *offsets(stride))]
    return np.concatenate((*seen, places_of(len(q_TK), stride, rows).T / UNIT), axis=1)


def _train(network: ReconstructionNetwork, inputs: torch.Tensor, left: torch.Tensor, around: slice, steps: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        chosen = torch.randint(0, len(inputs), (BATCH,))
        x_NX = inputs[chosen]
        x_NX[: int(ALONE * BATCH), around] = 0
        loss = (left[chosen] - network(x_NX)).square().sum() / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
