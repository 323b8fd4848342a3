"""Byte planes: the first bytes of all values together, then the second, ..., each compressed by itself.

The exponents of floats are much alike and shrink; mantissas do not, and are stored. Floats (as unsigned integers of
their width) are first rotated left by one bit: the whole exponent is then in one plane, and the sign in the last.
Every bit is restored: -0.0, subnormals and, NaN (which boundary.py refuses) all the same.

    body := block*itemsize        most significant plane first
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from splitvlm.codec.blocks import block, read_block
from splitvlm.codec.header import Cursor

assert sys.byteorder == "little", "the planes are cut from little-endian values"


def encode(values: npt.NDArray[np.generic]) -> bytes:
    """Returns a flat array of integers as a body."""
    planes = values.view(np.uint8).reshape(len(values), values.dtype.itemsize)
    return b"".join(block(planes[:, byte_index].tobytes()) for byte_index in reversed(range(values.dtype.itemsize)))


def decode(cursor: Cursor, dtype: np.dtype[np.generic], elements: int) -> npt.NDArray[np.generic]:
    """Returns `elements` integers of `dtype`. Raises ProtocolError."""
    planes = np.empty((elements, dtype.itemsize), np.uint8)
    for byte_index in reversed(range(dtype.itemsize)):
        planes[:, byte_index] = np.frombuffer(read_block(cursor, elements), np.uint8)
    return planes.reshape(-1).view(dtype)


def encode_floats(bits: npt.NDArray[np.generic]) -> bytes:
    """Returns a flat array of floats, given as unsigned integers of their width."""
    return encode(_rotated(bits, 1))


def decode_floats(cursor: Cursor, dtype: np.dtype[np.generic], elements: int) -> npt.NDArray[np.generic]:
    """Returns `elements` floats, as unsigned integers of `dtype`. Raises ProtocolError."""
    return _rotated(decode(cursor, dtype, elements), 8 * dtype.itemsize - 1)


def _rotated(bits: npt.NDArray[np.generic], left: int) -> npt.NDArray[np.generic]:
    width = 8 * bits.dtype.itemsize
    kind = bits.dtype.type
    rotated: npt.NDArray[np.generic] = bits << kind(left)  # type: ignore[operator]
    np.bitwise_or(rotated, bits >> kind(width - left), out=rotated)  # type: ignore[operator, call-overload]
    return rotated
