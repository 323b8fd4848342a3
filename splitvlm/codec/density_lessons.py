"""Learns a level's density (density.py) from the coefficients of unlabelled pictures: cross-entropy, then whole numbers.

Seeded: the same coefficients give the same density on one machine.
N tokens of all pictures, T of one, K columns, H hidden units, V symbols.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from splitvlm.codec.density import (
    BAND,
    HIDDEN_UNITS,
    LARGEST_HIDDEN,
    MAX_COLUMNS,
    MAX_REACH,
    NATS,
    NEIGHBOURS,
    Density,
    companded,
    offsets,
)

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

STEPS: Final = 3000
BATCH: Final = 256  # tokens
RATE: Final = 4e-3
DECAY: Final = 0.02
UNIT: Final = 16.0  # what the networks' inputs are divided by in training
SEEN: Final = 0.05  # of each symbol before any picture: none is impossible
UNIT_BITS: Final = int(np.log2(UNIT))
NATS_BITS: Final = int(np.log2(NATS))
LOGIT_BITS: Final = 17  # at most: a log-likelihood below 64 stays below 2^23
BEYOND_REACH: Final = 1 / 2048  # the share of a column's values that escape
MOST_WEIGHT: Final = 65535  # of a band's symbols
_TOP: Final = 127  # of int8
_MOST_BITS: Final = 12  # of a scale


class Student(nn.Module):
    """All columns at once: a block of H hidden units for each, which sees the columns before it only."""

    def __init__(self, columns: int, symbols: int) -> None:
        super().__init__()
        self.columns = columns
        self.first = nn.Parameter(torch.randn(columns, NEIGHBOURS, columns * HIDDEN_UNITS) * 0.05)
        self.first_bias = nn.Parameter(torch.zeros(columns, HIDDEN_UNITS))
        self.second = nn.Parameter(torch.randn(columns, HIDDEN_UNITS, symbols) * 0.05)
        self.second_bias = nn.Parameter(torch.zeros(columns, symbols))
        before = torch.arange(columns)[:, None] < torch.arange(columns)[None]
        self.sees = before.repeat_interleave(HIDDEN_UNITS, dim=1).float()[:, None]

    def forward(self, x_NKO: torch.Tensor) -> torch.Tensor:
        """[N, K, V] from inputs of N tokens."""
        first = (self.first * self.sees).flatten(0, 1)
        hidden = (x_NKO.flatten(1) @ first).unflatten(1, (self.columns, HIDDEN_UNITS)) + self.first_bias
        return torch.einsum("nkh,khv->nkv", functional.relu(hidden), self.second) + self.second_bias


def learn(pictures: Sequence[I64], stride: int, *, steps: int = STEPS) -> Density:
    """From the coefficients [T, C] of several pictures. Columns after the last that is not zero in all of them get nothing."""
    used = _used(pictures)
    columns = min(used, MAX_COLUMNS)
    bands = _bands(np.concatenate([q_TC[:, columns:used] for q_TC in pictures]))
    q_NK = np.concatenate([q_TC[:, :columns] for q_TC in pictures])
    reach = _reach(q_NK)
    if not columns:
        return Density(stride, reach, (), np.zeros((0, HIDDEN_UNITS), np.float32), (), (), np.zeros((0, 2), np.int64))
    torch.manual_seed(0)
    inputs = torch.from_numpy(np.concatenate([_inputs(q_TC[:, :columns], stride) for q_TC in pictures]))
    symbols = torch.from_numpy(np.where(np.abs(q_NK) <= reach, q_NK + reach, 2 * reach + 1))
    student = Student(columns, 2 * int(reach.max()) + 2)
    student.second_bias.data = _prior(symbols, reach)
    _train(student, inputs, symbols, steps)
    return replace(_whole(student, inputs, reach, stride), bands=bands)


def _used(pictures: Sequence[I64]) -> int:
    used = np.flatnonzero(np.any([q_TC.any(axis=0) for q_TC in pictures], axis=0))
    return int(used[-1]) + 1 if len(used) else 0


def _reach(q_NK: I64) -> I64:
    """What less of each column than BEYOND_REACH lies beyond. A symbol takes time for every token, an escape 5 bits more."""
    magnitudes = np.sort(np.abs(q_NK), axis=0)
    within = math.ceil(len(q_NK) * (1 - BEYOND_REACH)) - 1
    reach: I64 = magnitudes[max(0, within)].clip(1, MAX_REACH)
    return reach


def _bands(q_NK: I64) -> tuple[F32, ...]:
    return tuple(_histogram(q_NK[:, start : start + BAND]) for start in range(0, q_NK.shape[1], BAND))


def _histogram(q_NB: I64) -> F32:
    reach = min(int(np.abs(q_NB).max(initial=0)) + 1, MAX_REACH)
    symbols = np.where(np.abs(q_NB) <= reach, q_NB + reach, 2 * reach + 1)
    counts = np.bincount(symbols.reshape(-1), minlength=2 * reach + 2) + SEEN
    weights_V: F32 = np.maximum(1, np.round(counts / counts.max() * MOST_WEIGHT)).astype(np.float32)
    return weights_V


def _inputs(q_TK: I64, stride: int) -> npt.NDArray[np.float32]:
    """[T, K, O]: every column of every neighbour, zero beyond the ends."""
    margin = max(1, stride)
    padded = np.pad(companded(q_TK), ((margin, margin), (0, 0))) / np.float32(UNIT)
    shifted = [padded[margin + offset : margin + offset + len(q_TK)] for offset in offsets(stride)]
    return np.stack(shifted, axis=-1)


def _prior(symbols_NK: torch.Tensor, reach: I64) -> torch.Tensor:
    """The logarithm of each symbol's share, and of nothing where a column has fewer symbols than the widest."""
    most = 2 * int(reach.max()) + 2
    shares = torch.full((len(reach), most), -20.0)
    for column, reaches in enumerate(reach.tolist()):
        alphabet = 2 * reaches + 2
        counts = torch.bincount(symbols_NK[:, column], minlength=alphabet).float() + SEEN
        shares[column, :alphabet] = (counts / counts.sum()).log()
    return shares


def _train(student: Student, inputs: torch.Tensor, symbols: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        chosen = torch.randint(0, len(inputs), (BATCH,))
        logits = student(inputs[chosen])
        loss = functional.cross_entropy(logits.flatten(0, 1), symbols[chosen].flatten(), reduction="sum") / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def _whole(student: Student, inputs: torch.Tensor, reach: I64, stride: int) -> Density:
    """Each matrix scaled by a power of two to fill eight bits, biases and shifts to match."""
    first = (student.first * student.sees).unflatten(2, (student.columns, HIDDEN_UNITS))
    sample = inputs[:: max(1, len(inputs) // 4096)]
    parts: dict[str, list[Any]] = {"first": [], "first_bias": [], "second": [], "second_bias": [], "shifts": []}
    for column, reaches in enumerate(reach.tolist()):
        seen = first[:column, :, column].flatten(0, 1)
        hidden = functional.relu(sample[:, :column].flatten(1) @ seen + student.first_bias[column])
        outer, inner = _scale(seen), _power(LARGEST_HIDDEN / max(float(hidden.max()), 1e-6))
        inner = min(inner, outer + UNIT_BITS)
        second = student.second[column, :, : 2 * reaches + 2]
        final = max(min(_scale(second), LOGIT_BITS - inner), NATS_BITS - inner)
        parts["first"].append(_rounded(seen, outer))
        parts["first_bias"].append(_rounded(student.first_bias[column], outer + UNIT_BITS))
        parts["second"].append(_rounded(second, final))
        parts["second_bias"].append(_rounded(student.second_bias[column, : 2 * reaches + 2], final + inner))
        parts["shifts"].append((outer + UNIT_BITS - inner, final + inner - NATS_BITS))
    return Density(
        stride, reach, tuple(parts["first"]), np.stack(parts["first_bias"]), tuple(parts["second"]),
        tuple(parts["second_bias"]), np.array(parts["shifts"], np.int64),
    )  # fmt: skip


def _power(scale: float) -> int:
    """The binary logarithm of the largest power of two that is not above."""
    return int(np.clip(np.floor(np.log2(scale)), -_MOST_BITS, _MOST_BITS))


def _scale(weights: torch.Tensor) -> int:
    largest = float(weights.abs().max()) if weights.numel() else 0.0
    return _power(_TOP / max(largest, 1e-6))


def _rounded(values: torch.Tensor, bits: int) -> npt.NDArray[np.float32]:
    return np.asarray((values * 2.0**bits).round().numpy(), np.float32)
