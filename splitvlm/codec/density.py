"""How likely each value of a quantised coefficient is, given what is already known: a small network for each column.

Columns (klt.py) are coded one after another, the most informative first, each for all tokens at once. What column c of a token
holds is predicted from the earlier columns of that token and of its neighbours before, after, above and below, which
both sides know by then:

    x = companded(q[neighbours, columns < c])    h = min(relu(x · W1 + b1) >> s1, 255)    l = h · W2 + b2
    P(symbol v) ~ WEIGHTS[(max(l) - l_v) >> s2]

A symbol is a value from -reach to reach, or the escape above them. The lower end of a stream of columns is a coarser stream.
Columns after the first MAX_COLUMNS depend on others too little to pay for a network: a band of them shares one histogram.

Both sides must compute the same P to the last bit, on whatever hardware. All numbers are integers held in float32, which
stay below 2^24: every product and sum is exact, in any order, so that a BLAS can do them (Ballé et al., "Integer Networks for
Data Compression with Latent-Variable Models", ICLR 2019, say why floats can't). T tokens, K columns, H hidden units, V symbols.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

MAX_COLUMNS: Final = 64  # that have a network; those after them share a histogram in bands
BAND: Final = 8  # columns
BLOCK: Final = 8  # columns whose products with all earlier ones are one
MANY_TOKENS: Final = 1024  # from here on the inputs leave a core's cache between columns, and blocks pay
MAX_REACH: Final = 63
HIDDEN_UNITS: Final = 24
NEIGHBOURS: Final = 5  # the token itself, the one before, after, above, below
LARGEST_HIDDEN: Final = 255
COMPANDING: Final = 8  # a coefficient enters the network as round(8 · log2(1 + |q|)), with its sign
LARGEST_INPUT: Final = 56
NATS: Final = 16  # steps of WEIGHTS in one unit of log-likelihood

_KNOWN: Final = 128
_COMPANDED: Final = np.array(
    [
        math.copysign(min(LARGEST_INPUT, round(COMPANDING * math.log2(1 + abs(q)))), q)
        for q in range(1 - _KNOWN, _KNOWN)
    ],
    np.float32,
)
WEIGHTS: Final = np.array([max(1, round(65536 * math.exp(-i / NATS))) for i in range(256)], np.float32)
REST: Final = np.array([8.0, 4080.0, 8.0, 2.0], np.float32)
"""Weights of -1, 0, 1 and the escape in the columns after the last band: they were all zero in calibration."""


@dataclass(frozen=True, slots=True, eq=False)
class Density:
    """The networks of one level. Column c has first[c] int8 [5c, H], second[c] int8 [H, V_c], V_c = 2 · reach[c] + 2."""

    stride: int  # tokens from one to that below it
    reach: I64  # [K]
    first: tuple[F32, ...]
    first_bias: F32  # [K, H]
    second: tuple[F32, ...]
    second_bias: tuple[F32, ...]
    shifts: I64  # [K, 2]: s1, s2
    bands: tuple[F32, ...] = ()  # of the columns after K, BAND at a time: weights of the symbols, 1 to 65535

    @property
    def columns(self) -> int:
        return len(self.reach)

    def shared(self, columns: int) -> Iterator[tuple[int, int, F32]]:
        """The first `columns` columns from K on, in runs that share weights [V]: start, stop, weights."""
        for place, weights_V in enumerate(self.bands):
            start = self.columns + BAND * place
            if start < columns:
                yield start, min(start + BAND, columns), weights_V
        start = self.columns + BAND * len(self.bands)
        if start < columns:
            yield start, columns, REST


@dataclass(frozen=True, slots=True, eq=False)
class _Folded:
    """Layers with their biases as a first column and their shifts multiplied in: powers of two, so exact. B columns a block.

    before: of each block, its columns' first layers on all columns before the block, [B · H, 1 + 5 · columns].
    within: of each column, its first layer on the block's columns before it, [H, 5 · columns]. second: of each, [V, 1 + H].
    """

    before: tuple[F32, ...]
    within: tuple[F32, ...]
    second: tuple[F32, ...]


@functools.lru_cache(maxsize=32)  # about 1 MB each, 1 ms to make; a cloud node may need all levels of three cuts
def _folded(density: Density, block: int) -> _Folded:
    before, within, second = [], [], []
    for start in range(0, density.columns, block):
        known = 1 + NEIGHBOURS * start
        ahead = []
        for column in range(start, min(start + block, density.columns)):
            s1, s2 = (np.float32(2.0 ** -int(shift)) for shift in density.shifts[column])
            first_XH = np.concatenate((density.first_bias[column][None], density.first[column])) * s1
            second_HV = np.concatenate((density.second_bias[column][None], density.second[column])) * -s2
            ahead.append(first_XH[:known].T)
            within.append(np.ascontiguousarray(first_XH[known:].T))
            second.append(np.ascontiguousarray(second_HV.T))
        before.append(np.ascontiguousarray(np.concatenate(ahead)))
    return _Folded(tuple(before), tuple(within), tuple(second))


class Context:
    """What both sides know while columns come one after another. Tokens lie last: what is done for each of them is one run."""

    def __init__(self, density: Density, num_tokens: int) -> None:
        self._stride = density.stride
        self._block = BLOCK if num_tokens >= MANY_TOKENS else 1
        self._layers = _folded(density, self._block)
        self._inputs_XT = np.zeros((1 + density.columns * NEIGHBOURS, num_tokens), np.float32)
        self._inputs_XT[0] = 1  # what the biases are multiplied by
        self._ahead_BHT = np.empty((self._block, HIDDEN_UNITS, num_tokens), np.float32)
        self._hidden_HT = np.ones((1 + HIDDEN_UNITS, num_tokens), np.float32)

    def weights(self, column: int) -> F32:
        """[T, V] for the next of K columns, whole numbers from 1 to 65536; not normalised."""
        hidden_HT = self._hidden_HT[1:]
        np.clip(self._first_layer(column), 0, LARGEST_HIDDEN, out=hidden_HT)
        np.floor(hidden_HT, out=hidden_HT)
        below_VT = self._layers.second[column] @ self._hidden_HT
        below_VT -= below_VT.min(axis=0)
        weights: F32 = WEIGHTS.take(
            below_VT.T.astype(np.intp, order="C"), mode="clip"
        )  # the last for all that lie further
        return weights

    def _first_layer(self, column: int) -> F32:
        """A block's columns share their product with what came before it: a large one is faster than eight small ones."""
        block, place = divmod(column, self._block)
        if place == 0:
            first_GX = self._layers.before[block]
            ahead_GT = self._ahead_BHT.reshape(-1, self._ahead_BHT.shape[2])[: len(first_GX)]
            np.matmul(first_GX, self._inputs_XT[: first_GX.shape[1]], out=ahead_GT)
        sums_HT: F32 = self._ahead_BHT[place]
        if place:
            start = 1 + NEIGHBOURS * (column - place)
            sums_HT += self._layers.within[column] @ self._inputs_XT[start : start + NEIGHBOURS * place]
        return sums_HT

    def learn(self, column: int, q_T: npt.NDArray[np.signedinteger[Any]]) -> None:
        """Take in a column that was coded."""
        known_T = companded(q_T)
        rows = self._inputs_XT[1 + NEIGHBOURS * column :]
        for row_T, offset in zip(rows, offsets(self._stride), strict=False):
            if offset < 0:
                row_T[-offset:] = known_T[:offset]
            else:
                row_T[: max(0, len(row_T) - offset)] = known_T[offset:]


def offsets(stride: int) -> tuple[int, ...]:
    """Where the neighbours stand in the order of tokens. Rows run on into each other: that is learned."""
    return 0, -1, 1, -stride, stride


def companded(q: npt.NDArray[Any]) -> F32:
    """Whole numbers of any size as the networks' inputs, -56 to 56."""
    inputs: F32 = _COMPANDED.take(q + (_KNOWN - 1), mode="clip")
    return inputs
