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


@functools.lru_cache(maxsize=32)  # about 1 MB each, 1 ms to make; a cloud node may need all levels of three cuts
def _folded(density: Density) -> tuple[tuple[F32, F32], ...]:
    """Of each column, both layers with their biases as a first row and their shifts multiplied in: powers of two, so exact."""
    layers = []
    for column in range(density.columns):
        s1, s2 = (np.float32(2.0 ** -int(shift)) for shift in density.shifts[column])
        first = np.concatenate((density.first_bias[column][None], density.first[column])) * s1
        second = np.concatenate((density.second_bias[column][None], density.second[column])) * -s2
        layers.append((np.ascontiguousarray(first.T), np.ascontiguousarray(second.T)))
    return tuple(layers)


class Context:
    """What both sides know while columns come one after another. Tokens lie last: what is done for each of them is one run."""

    def __init__(self, density: Density, num_tokens: int) -> None:
        self._stride = density.stride
        self._layers = _folded(density)
        self._inputs_XT = np.zeros((1 + density.columns * NEIGHBOURS, num_tokens), np.float32)
        self._hidden_HT = np.ones((1 + HIDDEN_UNITS, num_tokens), np.float32)
        self._inputs_XT[0] = 1  # what the biases are multiplied by

    def weights(self, column: int) -> F32:
        """[T, V] for the next of K columns, whole numbers from 1 to 65536; not normalised."""
        first_HX, second_VH = self._layers[column]
        hidden_HT = self._hidden_HT[1:]
        np.matmul(first_HX, self._inputs_XT[: first_HX.shape[1]], out=hidden_HT)
        np.maximum(hidden_HT, 0, out=hidden_HT)
        np.minimum(hidden_HT, LARGEST_HIDDEN, out=hidden_HT)
        np.floor(hidden_HT, out=hidden_HT)
        below_VT = second_VH @ self._hidden_HT
        below_VT -= below_VT.min(axis=0)
        np.minimum(below_VT, len(WEIGHTS) - 1, out=below_VT)
        weights: F32 = WEIGHTS.take(below_VT.astype(np.uint8).T)
        return weights

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
