"""Restores where in its cell a quantised coefficient most likely lay, from all others, by a small network at the receiver.

    x = places, companded(q[neighbours, columns < COLUMNS]) / 16     r = relu(relu(x · W1 + b1) · W2 + b2) · W3 + b3
    y / step = q restored at its centre (klt.py) + r, kept within the cell of q

Coefficients are decorrelated, not independent: what the coarser ones say of a token and of the tokens around it narrows down
where the finer ones lie, those that fell to zero above all. It costs no byte. Calibration learns it by the least mean square of
what is left (in the metric of klt.py), and keeps it where that falls by a tenth or more. Unlike the entropy models it may round
differently on each machine: it is not needed to read the stream. Learned in splitvlm.calibration.reconstruction_training.
T tokens, K columns that are seen, H hidden units, R columns that are restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec.entropy_model import COMPANDING, F32, companded
from splitvlm.codec.grid import offsets, places_of

COLUMNS: Final = 64  # that are seen
RESTORED: Final = 96  # columns; those after them bear too little
HIDDEN_UNITS: Final = 96
TOKENS: Final = 5  # that are seen: the token itself, the one before, after, above, below
UNIT: Final = np.float32(2 * COMPANDING)  # what the inputs are divided by
Whole = npt.NDArray[np.signedinteger[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Reconstructor:
    """Holds W1 [TOKENS, K, H], W2 [H, H], W3 [H, R], and their biases.

    Those of W1 with weights [PLACES, H] of a token's place.
    """

    stride: int  # tokens from one to that below it
    rows: int  # of tokens in a picture; 0: tokens have no place that is known beforehand
    first: F32
    first_bias: F32
    places: F32  # [0, H] without rows
    second: F32
    second_bias: F32
    third: F32
    third_bias: F32

    @property
    def columns(self) -> int:
        """Returns the number of coefficients that the network restores."""
        return len(self.third_bias)

    def __call__(self, q_TK: Whole) -> F32:
        """Returns r [T, R] from the columns that were sent, in cells. Each column runs by itself."""
        x_KT = companded(q_TK[:, : self.first.shape[1]].T)
        x_KT /= UNIT
        places_PT = places_of(x_KT.shape[1], self.stride, self.rows)
        h_HT: F32 = np.matmul(self.places.T, places_PT / UNIT, dtype=np.float32)
        h_HT += self.first_bias[:, None]
        for index, offset in enumerate((0, *offsets(self.stride))):
            seen, by = _overlap(x_KT.shape[1], offset)
            h_HT[:, by] += self.first[index, : len(x_KT)].T @ x_KT[:, seen]
        np.maximum(h_HT, 0, out=h_HT)
        h_HT = self.second.T @ h_HT
        h_HT += self.second_bias[:, None]
        np.maximum(h_HT, 0, out=h_HT)
        r_RT: F32 = self.third.T @ h_HT
        r_RT += self.third_bias[:, None]
        return r_RT.T


def _overlap(num_tokens: int, offset: int) -> tuple[slice, slice]:
    """Returns the tokens that have a neighbour at `offset`, as that neighbour and as themselves."""
    if offset < 0:
        return slice(0, max(0, num_tokens + offset)), slice(min(-offset, num_tokens), num_tokens)
    return slice(min(offset, num_tokens), num_tokens), slice(0, max(0, num_tokens - offset))
