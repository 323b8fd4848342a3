"""Integer and boolean tensors, exactly: the ids of a prompt, masks, positions, grids.

    body := form u8 · rest
    form 0  planes        rest = byte planes (lossless.py)
    form 1  runs          rest = runs of the values
    form 2  steps         rest = runs of the differences: positions 0, 1, 2, ... are one run
    form 3  bits          rest = width u8 · runs varint · repeats · bits       non-negative values of `width` bits each
    repeats := bytes varint · varints = (runs since the last repeat, length - 2) for each run that is longer than one
    runs := bytes varint · block[varints]       varints = (zigzag(value - last run's value), length - 1) for each run

A prompt's ids hold a run of 64 to 1,000 equal image-token ids, which costs a few bytes; its other ids cost the bits of a
vocabulary. The smallest form is taken. Runs whose varints are longer than the values themselves (by more than _ROOM) are not
formed, and not accepted.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec import lossless, varints
from splitvlm.codec.blocks import block, read_block
from splitvlm.codec.header import Cursor, malformed, varint

I64 = npt.NDArray[np.int64]

_PLANES: Final = 0
_RUNS: Final = 1
_STEPS: Final = 2
_BITS: Final = 3
_MOST_BITS: Final = 32
_ROOM: Final = 32


def encode(values: npt.NDArray[np.generic]) -> bytes:
    """Returns a flat array of int64, int32, uint8 or bool as a body."""
    wide = values.astype(np.int64)
    steps = np.diff(wide, prepend=np.int64(0))  # wraps around at 64 bits, as its inverse does
    planes = lossless.encode(values.view(np.uint8) if values.dtype == np.bool_ else values)
    runs = ((form, _pack_runs(of)) for form, of in ((_RUNS, wide), (_STEPS, steps)))
    short = [bytes((form,)) + _packed(run) for form, run in runs if len(run) <= values.nbytes + _ROOM]
    if len(wide) and wide.min() >= 0 and wide.max() < 2**_MOST_BITS:
        short.append(bytes((_BITS,)) + _pack_bits(wide))
    return min((bytes((_PLANES,)) + planes, *short), key=len)


def decode(cursor: Cursor, dtype: np.dtype[np.generic], elements: int) -> npt.NDArray[np.generic]:
    """Returns `elements` values of `dtype`. Raises ProtocolError, also where a value does not fit the dtype."""
    form = cursor.byte()
    if form == _PLANES:
        raw = np.dtype(np.uint8) if dtype == np.bool_ else dtype
        return _narrowed(lossless.decode(cursor, raw, elements), dtype)
    if form == _BITS:
        return _narrowed(_read_bits(cursor, elements), dtype)
    if form not in (_RUNS, _STEPS):
        malformed("its integers have an unknown form")
    wide = _read_runs(cursor, elements, dtype.itemsize)
    return _narrowed(np.cumsum(wide, dtype=np.int64) if form == _STEPS else wide, dtype)


def _pack_bits(values: I64) -> bytes:
    starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    lengths = np.diff(starts, append=len(values))
    repeats = np.flatnonzero(lengths > 1)
    pairs = np.stack((np.diff(repeats, prepend=0), lengths[repeats] - 2), axis=1).astype(np.uint64)
    width = max(1, int(values.max()).bit_length())
    bits = (values[starts, None] >> np.arange(width - 1, -1, -1)) & 1
    packed = varints.pack(pairs.reshape(-1))
    return (
        bytes((width,))
        + varint(len(starts))
        + varint(len(packed))
        + packed
        + np.packbits(bits.astype(np.uint8)).tobytes()
    )


def _read_bits(cursor: Cursor, elements: int) -> I64:
    width = cursor.byte()
    if not 1 <= width <= _MOST_BITS:
        malformed("its integers have too many bits")
    runs = cursor.varint(elements, "the number of its runs")
    packed = cursor.varint(cursor.left, "the length of its repeats")
    flat = varints.unpack(bytes(cursor.take(packed)), 2 * runs)
    if len(flat) % 2 or flat.max(initial=0) >= max(elements, 1):
        malformed("its repeats are invalid")
    places = np.cumsum(flat[0::2].astype(np.int64))
    lengths = np.ones(runs, np.int64)
    if places.max(initial=-1) >= runs:
        malformed("a repeat lies outside")
    np.add.at(lengths, places, flat[1::2].astype(np.int64) + 1)
    if int(lengths.sum()) != elements:
        malformed("its runs do not fill it")
    raw = np.frombuffer(cursor.take((runs * width + 7) // 8), np.uint8)
    bits = np.unpackbits(raw, count=runs * width).reshape(runs, width)
    values = np.zeros(runs, np.int64)
    for bit in range(width):  # not one product: that would take eight bytes for each bit
        values = values << 1 | bits[:, bit]
    return np.repeat(values, lengths)


def _pack_runs(values: I64) -> bytes:
    starts = np.flatnonzero(np.diff(values, prepend=values[:1] - 1)) if len(values) else np.zeros(0, np.int64)
    lengths = np.diff(starts, append=len(values))
    changes = np.diff(values[starts], prepend=np.int64(0))
    pairs = np.stack((varints.zigzag(changes), (lengths - 1).astype(np.uint64)), axis=1)
    return varints.pack(pairs.reshape(-1))


def _packed(run: bytes) -> bytes:
    return varint(len(run)) + block(run)


def _read_runs(cursor: Cursor, elements: int, itemsize: int) -> I64:
    packed_bytes = cursor.varint(elements * itemsize + _ROOM, "the length of its runs")
    flat = varints.unpack(read_block(cursor, packed_bytes), 2 * elements)
    if len(flat) % 2:
        malformed("a run has no length")
    changes, lengths = flat[0::2], flat[1::2]
    # Each is below `elements`, so their sum, of at most `elements` terms, cannot wrap around 64 bits.
    if lengths.max(initial=0) >= max(elements, 1) or int(lengths.sum()) + len(lengths) != elements:
        malformed("its runs do not fill it")
    values = np.cumsum(varints.unzigzag(changes), dtype=np.int64)
    return np.repeat(values, lengths.astype(np.int64) + 1)


def _narrowed(values: npt.NDArray[np.generic], dtype: np.dtype[np.generic]) -> npt.NDArray[np.generic]:
    narrow = values.astype(dtype)
    if not np.array_equal(narrow.astype(values.dtype), values):
        malformed(f"a value does not fit {dtype}")
    return narrow
