"""Groups of values on a uniform grid.

A group has a half-range h, and a centre c (0 where the grouping is not centred). With b bits the range c - h .. c + h
is divided into 2**b equal cells; a code says the cell, and decoding gives its middle:

    code = floor((x - c) / h * 2**(b-1) + 2**(b-1)), into 0 .. 2**b - 1       x' = c + h * ((code + 0.5) / 2**(b-1) - 1)

so |x - x'| <= h / 2**b. Both h (rounded up) and c (to nearest) are bfloat16: float32's range in two bytes.

Shape letters: N rows, M values of a row (groups are consecutive in a row), G groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec import lossless, packing
from splitvlm.codec.header import Cursor, malformed
from splitvlm.codec.levels import BITS

F32 = npt.NDArray[np.float32]
U16 = npt.NDArray[np.uint16]

SCALE_BITS: Final = 16
_BF16_ONE_ULP: Final = np.uint32(0xFFFF)
_BF16_KEPT: Final = np.uint32(0xFFFF0000)
_BF16_INFINITY: Final = 0x7F80
_ROUNDING: Final = 1.02  # rounding raises h by up to 2**-7, that of a centre by up to 2**-8; the rest is float32's


def error_bound(level: str) -> float:
    """Returns the bound of a lossy level's error: for every value x of a tensor and what is decoded for it, x',

        |x - x'| <= error_bound(level) * M  +  half a unit in the last place of the dtype at M,

    with M the largest magnitude in x's own channel or in its own token, whichever is larger. (In fact its group's,
    which lies within one of them and holds no outlier.) Of `lossless` the bound is 0, and x' has the bits of x.
    """
    return _ROUNDING / (1 << BITS[level]) if level in BITS else 0.0


@dataclass(frozen=True, slots=True)
class QuantisationGrid:
    """Holds the grids of all groups of an array [N, M]."""

    half_NG: F32
    centre_NG: F32 | None

    def log_step(self) -> float:
        """Returns mean binary logarithm of the half-ranges: what a grouping is judged by. Those of 0 count as very small."""
        floor = max(float(self.half_NG.max(initial=0.0)) * 1e-6, 1e-37)
        return float(np.log2(np.maximum(self.half_NG, np.float32(floor))).mean())


def fit(x_NM: F32, length: int, *, centred: bool) -> QuantisationGrid:
    """Fits the narrowest grids around groups of at most `length` consecutive values of each row."""
    starts = np.arange(0, x_NM.shape[1], length)
    high_NG = np.maximum.reduceat(x_NM, starts, axis=1)
    low_NG = np.minimum.reduceat(x_NM, starts, axis=1)
    if not centred:
        return QuantisationGrid(_rounded_up(np.maximum(high_NG, -low_NG)), None)
    centre_NG = _rounded((high_NG * np.float32(0.5) + low_NG * np.float32(0.5)).astype(np.float32))
    return QuantisationGrid(_rounded_up(np.maximum(high_NG - centre_NG, centre_NG - low_NG)), centre_NG)


def encode(x_NM: F32, grid: QuantisationGrid, length: int, bits: int) -> bytes:
    """Codes an array as half-ranges · centres, if centred · codes."""
    centres = b"" if grid.centre_NG is None else _pack_bf16(grid.centre_NG)
    return _pack_bf16(grid.half_NG) + centres + packing.pack(_codes(x_NM, grid, length, bits), bits)


def decode(cursor: Cursor, rows: int, columns: int, length: int, bits: int, *, centred: bool) -> F32:
    """Returns an array [rows, columns], finite except where c + h leaves float32's range. Raises ProtocolError."""
    groups = -(-columns // length)
    half_NG = _read_bf16(cursor, rows, groups)
    if np.signbit(half_NG).any():
        malformed("a half-range is negative")
    centre_NG = _read_bf16(cursor, rows, groups) if centred else None
    codes = packing.unpack(cursor, rows * columns, bits).reshape(rows, columns)
    middle_NM = (codes.astype(np.float32) + np.float32(0.5)) * np.float32(2.0 ** (1 - bits)) - np.float32(1)
    middle_NM *= _spread(half_NG, columns, length)
    if centre_NG is not None:
        with np.errstate(over="ignore"):
            middle_NM += _spread(centre_NG, columns, length)
    return middle_NM


def _codes(x_NM: F32, grid: QuantisationGrid, length: int, bits: int) -> U16:
    columns = x_NM.shape[1]
    cells = np.float32(1 << (bits - 1))
    half_NG = np.where(grid.half_NG > 0, grid.half_NG, np.float32(1))
    offset_NM = x_NM if grid.centre_NG is None else x_NM - _spread(grid.centre_NG, columns, length)
    place_NM = offset_NM / _spread(half_NG, columns, length)
    place_NM *= cells
    place_NM += cells
    np.clip(place_NM, 0, 2 * cells - 1, out=place_NM)
    return place_NM.astype(np.uint16).reshape(-1)


def _spread(of_groups_NG: F32, columns: int, length: int) -> F32:
    """Returns each group's number, for each of its values: [N, G] -> [N, M]."""
    return np.repeat(of_groups_NG, length, axis=1)[:, :columns] if of_groups_NG.shape[1] > 1 else of_groups_NG


def _rounded_up(sizes: F32) -> F32:
    """Returns the least bfloat16 that is not below; of non-negative numbers, -0.0 among them."""
    return ((np.abs(sizes).view(np.uint32) + _BF16_ONE_ULP) & _BF16_KEPT).view(np.float32)


def _rounded(numbers: F32) -> F32:
    """Returns the nearest bfloat16."""
    return ((numbers.view(np.uint32) + np.uint32(0x8000)) & _BF16_KEPT).view(np.float32)


def _pack_bf16(numbers: F32) -> bytes:
    return lossless.encode((numbers.reshape(-1).view(np.uint32) >> np.uint32(16)).astype(np.uint16))


def _read_bf16(cursor: Cursor, rows: int, groups: int) -> F32:
    bits = lossless.decode(cursor, np.dtype(np.uint16), rows * groups).astype(np.uint32)
    if ((bits & 0x7FFF) >= _BF16_INFINITY).any():
        malformed("a scale is not finite")
    return (bits << np.uint32(16)).view(np.float32).reshape(rows, groups)
