"""Codes of 2 to 16 bits as bytes, in whichever of two layouts is smaller after zstandard.

    codes := layout u8 · block           layout 0: bit-packed, dense     layout 1: one code a byte
    16-bit codes have no layout byte: two byte planes, most significant first.

Bit-packed is small before compression; one code a byte shows zstandard's entropy coder the symbols, and wins where
their distribution is uneven (docs/experiments/codec-levels.md).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec import lossless
from splitvlm.codec.blocks import block, read_block
from splitvlm.codec.header import Cursor, malformed

U16 = npt.NDArray[np.uint16]

_DENSE: Final = 0
_BYTES: Final = 1
_WIDE: Final = np.dtype(np.uint16)


def pack(codes: U16, bits: int) -> bytes:
    """Codes below 2**bits; `bits` is 2, 3, 4, 6, 8 or 16."""
    if bits == 16:
        return lossless.encode(codes)
    narrow = codes.astype(np.uint8)
    plain = bytes((_BYTES,)) + block(narrow.tobytes())
    if bits == 8:
        return plain
    dense = bytes((_DENSE,)) + block(_dense(narrow, bits))
    return min(dense, plain, key=len)


def unpack(cursor: Cursor, count: int, bits: int) -> U16:
    """Returns `count` codes. Raises ProtocolError."""
    if bits == 16:
        return lossless.decode(cursor, _WIDE, count).astype(np.uint16)
    layout = cursor.byte()
    if layout == _DENSE:
        return _undense(read_block(cursor, (count * bits + 7) // 8), count, bits).astype(np.uint16)
    if layout != _BYTES:
        malformed("its codes have an unknown layout")
    codes = np.frombuffer(read_block(cursor, count), np.uint8)
    if codes.max(initial=0) >> bits:
        malformed(f"a code needs more than {bits} bits")
    return codes.astype(np.uint16)


def _dense(codes: npt.NDArray[np.uint8], bits: int) -> bytes:
    planes = np.unpackbits(codes[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(planes.reshape(-1)).tobytes()


def _undense(data: bytes, count: int, bits: int) -> npt.NDArray[np.uint8]:
    planes = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits).reshape(count, bits)
    return np.packbits(planes, axis=1) >> np.uint8(8 - bits)
