"""Arrays of unsigned 64-bit integers as variable-length bytes (LEB128), without a Python loop over the values.

Also the zigzag map, which makes small negative numbers small: 0, -1, 1, -2 become 0, 1, 2, 3 (as in protobuf).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec.header import malformed

U64 = npt.NDArray[np.uint64]

MAX_BYTES: Final = 10  # of one value of 64 bits


def zigzag(values: npt.NDArray[np.int64]) -> U64:
    """Maps signed numbers to unsigned ones (0, -1, 1, -2, ... to 0, 1, 2, 3, ...), so that small sizes stay small."""
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def unzigzag(values: U64) -> npt.NDArray[np.int64]:
    """Inverts `zigzag`."""
    return ((values >> np.uint64(1)) ^ (np.uint64(0) - (values & np.uint64(1)))).view(np.int64)


def pack(values: U64) -> bytes:
    """Codes each number as a varint (LEB128: seven bits a byte, least significant first)."""
    lengths = np.ones(len(values), np.int64)
    for count in range(1, MAX_BYTES):
        lengths += values >= np.uint64(1 << 7 * count)
    starts = np.cumsum(lengths) - lengths
    out = np.empty(int(lengths.sum()), np.uint8)
    for index in range(int(lengths.max(initial=0))):
        has_byte = lengths > index
        more = np.where(lengths[has_byte] > index + 1, np.uint64(0x80), np.uint64(0))
        out[starts[has_byte] + index] = (values[has_byte] >> np.uint64(7 * index)) & np.uint64(0x7F) | more
    return out.tobytes()


def unpack(data: bytes, max_count: int) -> U64:
    """Returns all values in `data`, at most `max_count`. Raises ProtocolError if a value is cut off or longer than 64 bits."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if (len(raw) and raw[-1] >= 0x80) or len(ends) > max_count:
        malformed("its integers are cut off or too many")
    starts = np.concatenate((np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1))
    lengths = ends - starts + 1
    last_byte = raw[ends[lengths == MAX_BYTES]]
    if lengths.max(initial=0) > MAX_BYTES or last_byte.max(initial=0) > 1:
        malformed("an integer is longer than 64 bits")
    values = np.zeros(len(ends), np.uint64)
    for index in range(int(lengths.max(initial=0))):
        has_byte = lengths > index
        values[has_byte] |= (raw[starts[has_byte] + index] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * index)
    return values
