"""Dtypes of tensors at a cut, as numpy arrays hold them: a bfloat16 tensor as the uint16 of its bits, all others as themselves.

No unsigned 16-bit integers cross a cut, so that the dtype of an array tells that of its tensor.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec.header import DTYPES

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
F32 = npt.NDArray[np.float32]

BFLOAT16: Final = "bfloat16"
STORED: Final = {name: np.dtype(np.uint16 if name == BFLOAT16 else name) for name in DTYPES}
_NAMES: Final = {dtype: name for name, dtype in STORED.items()}
_EXPONENTS: Final = {"float16": np.uint16(0x7C00), BFLOAT16: np.uint16(0x7F80)}  # all of it set: NaN or infinity
_LARGEST: Final = {
    "float32": np.finfo(np.float32).max,
    "float16": np.float32(65504),
    BFLOAT16: np.float32(2.0**127 * (2 - 2**-7)),
}
_HALF: Final = np.uint32(0x7FFF)  # with the last bit that is kept: half a unit in its place, ties to even


def name_of(array: Array) -> str | None:
    """Returns the dtype of the tensor that an array holds, one of DTYPES; None for those that cross no cut."""
    return _NAMES.get(array.dtype)


def all_finite(array: Array, dtype: str) -> bool:
    """Returns whether all values are finite. Of float32 the sum says so many times faster, but large values overflow in it."""
    if dtype in _EXPONENTS:
        ones = _EXPONENTS[dtype]
        return not bool(((array.view(np.uint16) & ones) == ones).any())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def as_float32(array: Array, dtype: str) -> F32:
    """Returns the values of a floating-point array; float32 itself is not copied."""
    if dtype == BFLOAT16:
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.astype(np.float32, copy=False)


def from_float32(x: F32, dtype: str) -> Array:
    """Returns the values in the dtype; those beyond its range, by rounding or by a peer that lies, become the range's end.

    It may write to `x`.
    """
    np.clip(x, -_LARGEST[dtype], _LARGEST[dtype], out=x)
    if dtype != BFLOAT16:
        return x.astype(STORED[dtype], copy=False)
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + _HALF + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
