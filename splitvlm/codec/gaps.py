"""Codes where the values stand in a long band that is zero nearly everywhere, by how many zeros come before each.

A range coder decides about every symbol, also about zeros that are nearly certain. Of 1,088 tokens the last 300 of 576 columns
hold 300,000 zeros; counted like this, their time falls by a half, for about 13 bits more a band
(docs/experiments/codec-calibrated.md).

A symbol g < LONGEST: g zeros, then a value. LONGEST: so many zeros, and no value yet. Zeros after the last value are not told.
Weights follow from a band's own by divisions and products of float64 in one order, which IEEE 754 makes the same everywhere.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec.context import MANY_TOKENS
from splitvlm.codec.entropy_model import F32

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

LONGEST: Final = 255
SPARSE: Final = 0.8  # of a band's values are zero: below, the symbols of gaps take the time that they save
MOST_VALUES: Final = 1 << 22  # their number must fit the range coder's precision of 24 bits
_LARGEST_WEIGHT: Final = 65535


def pays(num_tokens: int, num_values: int, weights_V: F32) -> bool:
    """Tells whether a band is coded so; both sides must say the same."""
    return num_tokens >= MANY_TOKENS and num_values <= MOST_VALUES and _zeros(weights_V) >= SPARSE


def symbols_of(places: I64) -> I32:
    """Returns the symbols for values that stand at `places`, rising."""
    zeros = np.diff(places, prepend=-1) - 1
    long = zeros // LONGEST
    last = np.cumsum(long + 1) - 1  # of each value's symbols
    symbols = np.full(len(places) + int(long.sum()), LONGEST, np.int32)
    symbols[last] = zeros - LONGEST * long
    return symbols


def places_of(symbols: I32) -> I64:
    """Returns where the values stand; the inverse of `symbols_of`."""
    value = symbols < LONGEST
    places: I64 = np.cumsum(symbols + value, dtype=np.int64)[value] - 1
    return places


def models_of(weights_V: F32) -> tuple[F32, F32]:
    """Returns the weights of the gap symbols [LONGEST + 1], and of the values between them [V], where zero does not come."""
    return _models_of(weights_V.tobytes())


@functools.lru_cache(maxsize=1024)
def _models_of(weights: bytes) -> tuple[F32, F32]:
    values_V = np.frombuffer(weights, np.float32).copy()
    zeros = _zeros(values_V)
    falling = np.multiply.accumulate(np.full(LONGEST, zeros), dtype=np.float64) / zeros
    likely = np.append(falling, falling[-1] * zeros / (1 - zeros))  # in proportion: of each symbol, LONGEST last
    likely *= _LARGEST_WEIGHT / likely.max()
    values_V[len(values_V) // 2 - 1] = 1
    return np.maximum(1, np.rint(likely)).astype(np.float32), values_V


def _zeros(weights_V: npt.NDArray[Any]) -> float:
    """Returns the share of zeros."""
    return float(weights_V[len(weights_V) // 2 - 1]) / float(weights_V.sum(dtype=np.float64))
