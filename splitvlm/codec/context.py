"""Keeps what both sides know while columns come one after another, as an entropy model (entropy_model.py) reads it.

T tokens, in the order of coding (grid.py); X inputs, H hidden units, V symbols.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec.entropy_model import (
    AROUND,
    BETWEEN,
    F32,
    LARGEST_HIDDEN,
    LEADING,
    LEADING_UNITS,
    NEIGHBOURS,
    SECOND,
    WEIGHTS,
    EntropyModel,
    companded,
    inputs_of,
    units_of,
)
from splitvlm.codec.grid import TokenGrid, grid_of

BLOCK: Final = 8  # columns whose products with all earlier ones are one
MANY_TOKENS: Final = 1024  # from here on the inputs leave a core's cache between columns, and blocks pay


@dataclass(frozen=True, slots=True, eq=False)
class _FoldedLayers:
    """Holds layers with biases as a first column and shifts multiplied in: powers of two, so exact. B columns a block.

    before: of each block, its columns' first layers on all that is known before the block, [sum of H, X].
    within: of each column, its first layer on the block's columns before it, [H, X]. second: of each, [V, 1 + H].
    between: of each leading column, on what the second pass knows besides, [H, BETWEEN].
    """

    before: tuple[F32, ...]
    within: tuple[F32, ...]
    between: tuple[F32, ...]
    second: tuple[F32, ...]


@functools.lru_cache(maxsize=32)  # about 1 MB each, 1 ms to make; a cloud node may need all levels of three cuts
def _folded(entropy_model: EntropyModel, block: int) -> _FoldedLayers:
    before, within, between, second = [], [], [], []
    for start in range(0, entropy_model.columns, block):
        known = 1 + inputs_of(start, entropy_model.rows)
        ahead = []
        for column in range(start, min(start + block, entropy_model.columns)):
            s1, s2 = (np.float32(2.0 ** -int(shift)) for shift in entropy_model.shifts[column])
            first_XH = np.concatenate((entropy_model.first_bias[column][None], entropy_model.first[column])) * s1
            second_HV = np.concatenate((entropy_model.second_bias[column][None], entropy_model.second[column])) * -s2
            told = 1 + inputs_of(column, entropy_model.rows)
            ahead.append(first_XH[:known].T)
            within.append(np.ascontiguousarray(first_XH[known:told].T))
            between.append(np.ascontiguousarray(first_XH[told:].T))
            second.append(np.ascontiguousarray(second_HV.T))
        before.append(np.ascontiguousarray(np.concatenate(ahead)))
    return _FoldedLayers(tuple(before), tuple(within), tuple(between[:LEADING]), tuple(second))


class Context:
    """Gives the distribution of each column in turn. Tokens lie last: what is done for each of them is one run."""

    def __init__(self, entropy_model: EntropyModel, num_tokens: int) -> None:
        self.grid: TokenGrid = grid_of(num_tokens, entropy_model.stride, entropy_model.rows)
        self._rows = entropy_model.rows
        self._block = BLOCK if num_tokens >= MANY_TOKENS else 1
        self._layers = _folded(entropy_model, self._block)
        self._inputs_XT = np.zeros((1 + inputs_of(entropy_model.columns, entropy_model.rows), num_tokens), np.float32)
        self._inputs_XT[0] = 1  # what the biases are multiplied by
        self._inputs_XT[1 : 1 + len(self.grid.places)] = self.grid.places
        self._ahead_GT = np.empty((self._block * LEADING_UNITS, num_tokens), np.float32)
        self._sums_HT = self._ahead_GT[:0]
        self._hidden_HT = np.ones((1 + LEADING_UNITS, num_tokens), np.float32)
        self._column_T = np.zeros(num_tokens + 1, np.float32)  # the last is what is not there
        self._between_XT = np.full((BETWEEN, num_tokens - self.grid.num_first), SECOND, np.float32)

    def passes(self, column: int) -> Sequence[slice]:
        """Returns the tokens of each pass through a column; `weights` and `learn` want them in turn."""
        middle, end = self.grid.num_first, len(self._column_T) - 1
        return (slice(0, middle), slice(middle, end)) if column < LEADING and 0 < middle < end else (slice(0, end),)

    def weights(self, column: int, tokens: slice) -> F32:
        """Returns [tokens, V] of one of K columns, whole numbers from 1 to 65536; not normalised."""
        if tokens.start == 0:
            self._sums_HT = self._first_layer(column)
            self._column_T[tokens.stop :] = 0
        sums_HT = self._sums_HT[:, tokens]
        if tokens.start:
            around = self.grid.neighbours[:, tokens]
            np.take(self._column_T, around, out=self._between_XT[1:], mode="clip")
            sums_HT += self._layers.between[column] @ self._between_XT
        hidden_HT = self._hidden_HT[: 1 + len(sums_HT), tokens]
        np.clip(sums_HT, 0, LARGEST_HIDDEN, out=hidden_HT[1:])
        np.floor(hidden_HT[1:], out=hidden_HT[1:])
        below_VT = self._layers.second[column] @ hidden_HT
        below_VT -= below_VT.min(axis=0)
        steps_TV = below_VT.T.astype(np.intp, order="C")
        weights: F32 = WEIGHTS.take(steps_TV, mode="clip")  # the last for all that lie further
        return weights

    def _first_layer(self, column: int) -> F32:
        """Computes a column's first layer. A block's columns share one large product with what came before: that is faster."""
        block, index_in_block = divmod(column, self._block)
        units = units_of(column)
        if index_in_block == 0:
            first_GX = self._layers.before[block]
            np.matmul(first_GX, self._inputs_XT[: first_GX.shape[1]], out=self._ahead_GT[: len(first_GX)])
        sums_HT = self._ahead_GT[index_in_block * units : (index_in_block + 1) * units]
        if index_in_block:
            start, stop = (1 + inputs_of(of, self._rows) for of in (column - index_in_block, column))
            sums_HT += self._layers.within[column] @ self._inputs_XT[start:stop]
        return sums_HT

    def learn(self, column: int, tokens: slice, q_T: npt.NDArray[np.signedinteger[Any]]) -> None:
        """Takes in what was coded of a column in one pass."""
        self._column_T[tokens] = companded(q_T)
        if tokens.stop < len(self._column_T) - 1:
            return
        start = 1 + inputs_of(column, self._rows)
        self._inputs_XT[start] = self._column_T[:-1]
        if column < AROUND:
            around_XT = self._inputs_XT[start + 1 : start + 1 + NEIGHBOURS]
            np.take(self._column_T, self.grid.neighbours, out=around_XT, mode="clip")
