"""Predicts how likely each value of a quantised coefficient is by what is already known, with a small network a column.

Columns (klt.py) are coded one after another, the most informative first, each for all tokens before the next. What column c
of a token holds is predicted from the earlier columns of that token, the first AROUND of them also of its neighbours before,
after, above and below, and from its place in the picture, all of which both sides know by then:

    x = places, companded(q[token, columns < c]), companded(q[neighbours, columns < min(c, AROUND)])
    h = min(relu(x · W1 + b1) >> s1, 255)    l = h · W2 + b2    P(symbol v) ~ WEIGHTS[(max(l) - l_v) >> s2]

The LEADING columns are coded in two passes (grid.py): tokens of the second one see besides what their neighbours hold in the
column itself. They have larger networks, for nearly all of a coarse level's bits are theirs.
A symbol is a value from -reach to reach, or the escape above them. The lower end of a stream of columns is a coarser stream.
Columns after the first MAX_COLUMNS depend on others too little to pay for a network: a band of them shares one histogram.

Both sides must compute the same P to the last bit, on whatever hardware. All numbers are integers held in float32, which
stay below 2^24: every product and sum is exact, in any order, so that a BLAS can do them (Ballé et al., "Integer Networks for
Data Compression with Latent-Variable Models", ICLR 2019, say why floats can't). They are computed in context.py.
K columns, X inputs, H hidden units, V symbols.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec.grid import LARGEST_INPUT, PLACES

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

MAX_COLUMNS: Final = 64  # that have a network; those after them share a histogram in bands
BAND: Final = 8  # columns
LEADING: Final = 8  # columns
AROUND: Final = 16  # columns that neighbours are asked about: more of them tell nothing new, and take time
MAX_REACH: Final = 63
LEADING_UNITS: Final = 64
HIDDEN_UNITS: Final = 24
NEIGHBOURS: Final = 4
BETWEEN: Final = 1 + NEIGHBOURS  # inputs that only the second pass has: SECOND, and the neighbours in the same column
SECOND: Final = 16
LARGEST_HIDDEN: Final = 255
COMPANDING: Final = 8  # a coefficient enters the network as round(8 · log2(1 + |q|)), with its sign
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
class EntropyModel:
    """Holds one level's networks. Column c has first[c] int8 [X_c, H_c], second[c] int8 [H_c, V_c], V_c = 2 · reach[c] + 2.

    first[c] has a row for each of `inputs_of(c)`, then, in LEADING columns, BETWEEN more.
    """

    stride: int  # tokens from one to that below it
    rows: int  # of tokens in a picture; 0: tokens have no place that is known beforehand
    reach: I64  # [K]
    first: tuple[F32, ...]
    first_bias: tuple[F32, ...]
    second: tuple[F32, ...]
    second_bias: tuple[F32, ...]
    shifts: I64  # [K, 2]: s1, s2
    bands: tuple[F32, ...] = ()  # of the columns after K, BAND at a time: weights of the symbols, 1 to 65535

    @property
    def columns(self) -> int:
        """Returns the number of columns (KLT coefficients) that the model covers."""
        return len(self.reach)

    def shared(self, columns: int) -> Iterator[tuple[int, int, F32]]:
        """Yields the first `columns` columns from K on, in runs that share weights [V]: start, stop, weights."""
        for band, weights_V in enumerate(self.bands):
            start = self.columns + BAND * band
            if start < columns:
                yield start, min(start + BAND, columns), weights_V
        start = self.columns + BAND * len(self.bands)
        if start < columns:
            yield start, columns, REST


def inputs_of(column: int, rows: int) -> int:
    """Returns how much column c is told: places, then of each earlier column the token's own value and, of the first,
    neighbours'.
    """
    return (PLACES if rows else 0) + column + NEIGHBOURS * min(column, AROUND)


def units_of(column: int) -> int:
    """Returns the number of hidden units of a column's network: the leading columns, which hold most bits, get more."""
    return LEADING_UNITS if column < LEADING else HIDDEN_UNITS


def rows_of(column: int, rows: int) -> int:
    """Returns how many inputs the networks of each column have: first[column]'s rows."""
    return inputs_of(column, rows) + (BETWEEN if column < LEADING else 0)


def companded(q: npt.NDArray[Any]) -> F32:
    """Returns whole numbers of any size as the networks' inputs, -56 to 56."""
    inputs: F32 = _COMPANDED.take(q + (_KNOWN - 1), mode="clip")
    return inputs
