"""Learns a level's entropy model from the coefficients of unlabelled pictures: by cross-entropy, then in whole numbers.

Seeded: the same coefficients give the same entropy model on one machine.
N tokens of all pictures, T of one, K columns, X inputs, H hidden units, V symbols.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from splitvlm.codec.entropy_model import (
    AROUND,
    BAND,
    BETWEEN,
    LARGEST_HIDDEN,
    LEADING,
    MAX_COLUMNS,
    MAX_REACH,
    NATS,
    SECOND,
    EntropyModel,
    companded,
    inputs_of,
    units_of,
)
from splitvlm.codec.grid import TokenGrid, grid_of, rows_in

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


class ColumnNetworks(nn.Module):
    """Trains columns with networks of one size, all at once: a block of H hidden units for each, which sees the columns before
    it.
    """

    def __init__(self, columns: range, rows: int, symbols: int) -> None:
        super().__init__()
        self.columns = columns
        self.units = units_of(columns.start)
        told = torch.tensor([inputs_of(column, rows) for column in columns])
        most = int(told[-1])
        self.first = nn.Parameter(torch.randn(most, len(columns) * self.units) * 0.05)
        self.first_bias = nn.Parameter(torch.zeros(len(columns), self.units))
        self.second = nn.Parameter(torch.randn(len(columns), self.units, symbols) * 0.05)
        self.second_bias = nn.Parameter(torch.zeros(len(columns), symbols))
        if columns.start < LEADING:
            self.between = nn.Parameter(torch.randn(len(columns), BETWEEN, self.units) * 0.05)
        self.sees = (torch.arange(most)[:, None] < told[None]).repeat_interleave(self.units, dim=1).float()

    def hidden(self, known: NetworkInputs) -> torch.Tensor:
        """Returns the hidden units [N, columns, H]."""
        sums = known.inputs_NX[:, : len(self.sees)] @ (self.first * self.sees)
        sums = sums.unflatten(1, (len(self.columns), self.units)) + self.first_bias
        if self.columns.start < LEADING:
            sums = sums + torch.einsum("ncx,cxh->nch", known.between_NCX, self.between)
        return functional.relu(sums)

    def forward(self, known: NetworkInputs) -> torch.Tensor:
        """Returns the logits [N, columns, V]."""
        return torch.einsum("nch,chv->ncv", self.hidden(known), self.second) + self.second_bias


@dataclass(frozen=True, slots=True)
class NetworkInputs:
    """Holds the networks' inputs of N tokens: `inputs_of` all columns, and what leading columns C see in a second pass."""

    inputs_NX: torch.Tensor
    between_NCX: torch.Tensor

    def __getitem__(self, tokens: torch.Tensor | slice) -> NetworkInputs:
        return NetworkInputs(self.inputs_NX[tokens], self.between_NCX[tokens])


def learn(pictures: Sequence[I64], stride: int, *, steps: int = STEPS) -> EntropyModel:
    """Learns from the coefficients [T, C] of several pictures.

    Columns after the last that is not zero in all of them get nothing.
    """
    used = _used(pictures)
    columns = min(used, MAX_COLUMNS)
    bands = _bands(np.concatenate([q_TC[:, columns:used] for q_TC in pictures]))
    rows = rows_in(map(len, pictures), stride)
    known, q_NK = _known([q_TC[:, :columns] for q_TC in pictures], stride, rows)
    reach = _reach(q_NK)
    symbols = torch.from_numpy(np.where(np.abs(q_NK) <= reach, q_NK + reach, 2 * reach + 1))
    torch.manual_seed(0)
    all_networks = []
    for some in (range(min(LEADING, columns)), range(LEADING, columns)):
        if len(some):
            networks = ColumnNetworks(some, rows, 2 * int(reach[some].max()) + 2)
            networks.second_bias.data = _prior(symbols[:, some], reach[some])
            _train(networks, known, symbols[:, some], steps)
            all_networks.append(networks)
    return replace(_whole(all_networks, known, reach, stride, rows), bands=bands)


def _used(pictures: Sequence[I64]) -> int:
    used = np.flatnonzero(np.any([q_TC.any(axis=0) for q_TC in pictures], axis=0))
    return int(used[-1]) + 1 if len(used) else 0


def _reach(q_NK: I64) -> I64:
    """Returns the value of each column beyond which a share of less than BEYOND_REACH lies.

    A symbol takes time for every token, an escape 5 bits more.
    """
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


def _known(pictures: Sequence[I64], stride: int, rows: int) -> tuple[NetworkInputs, I64]:
    """Returns what the networks are told of all tokens in the order of coding, and their coefficients [N, K] in that order."""
    told, between, coded = [], [], []
    for q_TK in pictures:
        grid = grid_of(len(q_TK), stride, rows)
        q_TK = q_TK[grid.order]
        columns_KT = np.pad(companded(q_TK.T), ((0, 0), (0, 1)))
        around_KOT = columns_KT[:AROUND, grid.neighbours]
        inputs: list[F32] = [grid.places]
        for column, column_T in enumerate(columns_KT):
            inputs.append(column_T[None, :-1])
            inputs += [around_KOT[column]] if column < AROUND else []
        told.append(np.concatenate(inputs).T)
        between.append(_between(columns_KT[:LEADING], grid))
        coded.append(q_TK)
    scale = np.float32(1 / UNIT)
    inputs_NX, between_NCX = np.concatenate(told) * scale, np.concatenate(between) * scale
    return NetworkInputs(torch.from_numpy(inputs_NX), torch.from_numpy(between_NCX)), np.concatenate(coded)


def _between(columns_CT: F32, grid: TokenGrid) -> F32:
    """Returns [T, C, BETWEEN], zero in the first pass; absent neighbours count as zero."""
    told_first = columns_CT.copy()
    told_first[:, grid.num_first :] = 0
    between = np.zeros((len(grid.order), len(columns_CT), BETWEEN), np.float32)
    second = slice(grid.num_first, None)
    between[second, :, 0] = SECOND
    between[second, :, 1:] = told_first[:, grid.neighbours[:, second]].transpose(2, 0, 1)
    return between


def _prior(symbols_NK: torch.Tensor, reach: I64) -> torch.Tensor:
    """Returns the logarithm of each symbol's share, and of nothing where a column has fewer symbols than the widest."""
    most = 2 * int(reach.max()) + 2
    shares = torch.full((len(reach), most), -20.0)
    for column, reaches in enumerate(reach.tolist()):
        alphabet = 2 * reaches + 2
        counts = torch.bincount(symbols_NK[:, column], minlength=alphabet).float() + SEEN
        shares[column, :alphabet] = (counts / counts.sum()).log()
    return shares


def _train(networks: ColumnNetworks, known: NetworkInputs, symbols_NC: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(networks.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        chosen = torch.randint(0, len(symbols_NC), (BATCH,))
        logits = networks(known[chosen])
        loss = functional.cross_entropy(logits.flatten(0, 1), symbols_NC[chosen].flatten(), reduction="sum") / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def _whole(
    all_networks: Sequence[ColumnNetworks], known: NetworkInputs, reach: I64, stride: int, rows: int
) -> EntropyModel:
    """Scales each matrix by a power of two to fill eight bits, biases and shifts to match."""
    sample = known[:: max(1, len(known.inputs_NX) // 4096)]
    whole: dict[str, list[Any]] = {"first": [], "first_bias": [], "second": [], "second_bias": [], "shifts": []}
    for networks in all_networks:
        largest = networks.hidden(sample).amax(dim=(0, 2)).tolist()
        for position, column in enumerate(networks.columns):
            seen = networks.first[: inputs_of(column, rows)].unflatten(1, (-1, networks.units))[:, position]
            if column < LEADING:
                seen = torch.cat((seen, networks.between[position]))
            outer, inner = _scale(seen), _power(LARGEST_HIDDEN / max(largest[position], 1e-6))
            inner = min(inner, outer + UNIT_BITS)
            symbols = 2 * int(reach[column]) + 2
            second = networks.second[position, :, :symbols]
            final = max(min(_scale(second), LOGIT_BITS - inner), NATS_BITS - inner)
            whole["first"].append(_rounded(seen, outer))
            whole["first_bias"].append(_rounded(networks.first_bias[position], outer + UNIT_BITS))
            whole["second"].append(_rounded(second, final))
            whole["second_bias"].append(_rounded(networks.second_bias[position, :symbols], final + inner))
            whole["shifts"].append((outer + UNIT_BITS - inner, final + inner - NATS_BITS))
    shifts = np.array(whole.pop("shifts"), np.int64).reshape(-1, 2)
    return EntropyModel(
        stride, rows, reach, **{name: tuple(matrices) for name, matrices in whole.items()}, shifts=shifts
    )


def _power(scale: float) -> int:
    """Returns the binary logarithm of the largest power of two that is not above."""
    return int(np.clip(np.floor(np.log2(scale)), -_MOST_BITS, _MOST_BITS))


def _scale(weights: torch.Tensor) -> int:
    largest = float(weights.abs().max()) if weights.numel() else 0.0
    return _power(_TOP / max(largest, 1e-6))


def _rounded(values: torch.Tensor, bits: int) -> npt.NDArray[np.float32]:
    return np.asarray((values * 2.0**bits).round().numpy(), np.float32)
