"""All tensors at a cut, as numpy arrays, to bytes and back.

    boundary := version u8 = 1 · ...                                            header.py
              | 16 + level u8 · own ids (prompt.py) · body without its level     at calibrated levels

The second form is that of `hidden` (float32, of the shape that calibration saw, coded by klt.py) and of a prompt's `ids` that
follow the model's template, where nothing else needs saying: some 40 bytes less, of about 150.

`encode` is for our own tensors: what it cannot send is a UsageError. `decode` is for bytes of a peer: whatever they
are, it returns arrays within the limits or raises ProtocolError. Integers are exact at every level.

numpy knows no bfloat16: an array of uint16 holds the bits of such a tensor (dtypes.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from splitvlm.codec import dtypes, header, integers, klt, lossless, lossy
from splitvlm.codec.dtypes import Array, Arrays
from splitvlm.codec.header import Coding, Cursor, TensorHead, malformed, varint
from splitvlm.codec.klt import Basis
from splitvlm.codec.levels import BITS, FEATURE_LEVELS, KLT_STEPS
from splitvlm.codec.limits import CodecLimits
from splitvlm.errors import UsageError

IDS: Final = "ids"
CALIBRATED: Final = "hidden"
"""The tensor that a basis is for."""

FLOAT_BYTES: Final = 16  # an element of float tensors, on the way from bytes to the tensor
INTEGER_BYTES: Final = 48  # an element of integer tensors: runs that are all one value long


class TensorOutline(NamedTuple):
    """Tells of a tensor what can be said before it is decoded."""

    dtype: str  # one of header.DTYPES
    shape: tuple[int, ...]


def encode(boundary: Arrays, level: str, basis: Basis | None = None) -> bytes:
    """Codes all tensors of a boundary, at one of FEATURE_LEVELS, or of KLT_STEPS with the `basis` of its tensor `hidden`.

    Raises UsageError for an unknown level, a dtype that does not cross cuts, and NaN or infinity.
    """
    if level not in FEATURE_LEVELS and (level not in KLT_STEPS or basis is None):
        raise UsageError(
            f"'{level}' is no codec level of features.", advice=f"Known levels: {', '.join(FEATURE_LEVELS)}."
        )
    if basis is not None and level in KLT_STEPS and _is_short(boundary, basis):
        x_TC = np.ascontiguousarray(boundary[CALIBRATED]).reshape(-1, basis.channels)
        coded, own = klt.encode(x_TC, basis, level), basis.template.encode(boundary[IDS].tolist())
        if coded is not None and own is not None:
            return bytes((header.SHORT + coded[0],)) + own + coded[1:]
    if len(boundary) > 255:
        raise UsageError(f"A boundary of {len(boundary)} tensors does not fit the format.")
    tensors = (_encode_tensor(name, array, level, basis) for name, array in boundary.items())
    return bytes((header.VERSION, len(boundary))) + b"".join(tensors)


def decode(data: bytes, *, limits: CodecLimits, basis: Basis | None = None) -> Arrays:
    """Returns the tensors of a coded boundary, in their own dtypes and order. Raises ProtocolError."""
    cursor = Cursor(data)
    version = cursor.byte()
    if version >= header.SHORT:
        return _decode_short(cursor, version - header.SHORT, limits, basis)
    return {head.name: _decode_tensor(head, body, basis) for head, body in _bodies(cursor, version, limits)}


def outline(data: bytes, *, limits: CodecLimits, basis: Basis | None = None) -> dict[str, TensorOutline]:
    """Returns dtypes and shapes of what `decode` would return: nothing is decoded. Raises ProtocolError."""
    cursor = Cursor(data)
    version = cursor.byte()
    if version < header.SHORT:
        return {head.name: TensorOutline(head.dtype, head.shape) for head, _ in _bodies(cursor, version, limits)}
    shape, left, basis = _short_shape(limits, basis)
    num_ids = basis.template.length(cursor, _most_ids(left))
    return {CALIBRATED: TensorOutline("float32", shape), IDS: TensorOutline("int64", (num_ids,))}


def decoding_bytes(outline: Mapping[str, TensorOutline]) -> int:
    """Returns peak memory that decoding a boundary of this outline takes, beside its bytes: an upper bound for every level."""
    return sum(
        math.prod(tensor.shape) * (FLOAT_BYTES if tensor.dtype in header.FLOATS else INTEGER_BYTES)
        for tensor in outline.values()
    )


def _bodies(cursor: Cursor, version: int, limits: CodecLimits) -> list[tuple[TensorHead, Cursor]]:
    """Returns each tensor's head, held against the limits of all together, and its body."""
    if version != header.VERSION:
        malformed("its version is unknown")
    count = cursor.byte()
    if count > limits.max_tensors:
        malformed(f"it holds {count} tensors, above {limits.max_tensors}")
    bodies: list[tuple[TensorHead, Cursor]] = []
    left = limits
    for _ in range(count):
        head = header.read_head(cursor, left)
        if any(head.name == before.name for before, _ in bodies):
            malformed("a name occurs twice")
        left = left.less(head.elements, head.elements * header.ITEM_BYTES[head.dtype])
        bodies.append((head, Cursor(cursor.take(cursor.varint(cursor.left, "a body's length")))))
    cursor.end()
    return bodies


def _is_short(boundary: Arrays, basis: Basis) -> bool:
    if list(boundary) != [CALIBRATED, IDS]:
        return False
    hidden, ids = boundary[CALIBRATED], boundary[IDS]
    if not basis.shape or hidden.shape != (*basis.shape, basis.channels):
        return False
    is_calibrated = hidden.dtype == np.float32 and ids.dtype == np.int64 and ids.ndim == 1
    return is_calibrated and dtypes.all_finite(hidden, "float32")


def _decode_short(cursor: Cursor, level: int, limits: CodecLimits, basis: Basis | None) -> Arrays:
    shape, left, basis = _short_shape(limits, basis)
    ids = basis.template.decode(cursor, _most_ids(left))
    hidden = klt.decode(cursor, math.prod(basis.shape), basis, level).reshape(shape)
    cursor.end()
    return {CALIBRATED: hidden, IDS: np.array(ids, np.int64)}


def _short_shape(limits: CodecLimits, basis: Basis | None) -> tuple[tuple[int, ...], CodecLimits, Basis]:
    """Reads `hidden` in the second form; returns it and what it leaves of the limits."""
    if basis is None or not basis.shape:
        malformed("this boundary has no calibration for it")
    shape = (*basis.shape, basis.channels)
    return shape, limits.less(math.prod(shape), 4 * math.prod(shape)), basis


def _most_ids(left: CodecLimits) -> int:
    return min(left.max_elements, left.max_decoded_bytes // 8)


def _encode_tensor(name: str, array: Array, level: str, basis: Basis | None) -> bytes:
    dtype = dtypes.name_of(array)
    if dtype is None:
        raise UsageError(f"The tensor '{name}' is {array.dtype}.", advice=f"At a cut: {', '.join(header.DTYPES)}.")
    if dtype in header.FLOATS and not dtypes.all_finite(array, dtype):
        raise UsageError(
            f"The tensor '{name}' at the cut holds NaN or infinity.",
            advice="Some models overflow in float16: try float32.",
        )
    coding, body = _encode_body(array, dtype, level, basis if name == CALIBRATED else None)
    return header.pack_head(TensorHead(name, dtype, array.shape, coding)) + varint(len(body)) + body


def _encode_body(array: Array, dtype: str, level: str, basis: Basis | None) -> tuple[Coding, bytes]:
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype not in header.FLOATS:
        return Coding.INTEGERS, integers.encode(flat)
    if level in KLT_STEPS and basis is not None:
        body = klt.encode(dtypes.as_float32(flat, dtype).reshape(-1, _channels(array.shape)), basis, level)
        if body is not None:
            return Coding.KLT, body
    if level in BITS and array.size >= lossy.SMALLEST_ELEMENTS:
        x_TC = dtypes.as_float32(flat, dtype).reshape(-1, _channels(array.shape))
        if lossy.fits(x_TC):
            return Coding.GROUPS, lossy.encode(x_TC, BITS[level])
    return Coding.PLANES, lossless.encode_floats(flat.view(f"u{array.itemsize}"))


def _decode_tensor(head: TensorHead, body: Cursor, basis: Basis | None) -> Array:
    if head.coding is Coding.INTEGERS:
        array: Array = integers.decode(body, np.dtype(head.dtype), head.elements)
    elif head.coding is Coding.GROUPS:
        array = _decode_groups(head, body)
    elif head.coding is Coding.KLT:
        array = _decode_klt(head, body, basis)
    else:
        array = _decode_planes(head, body)
    body.end()
    return array.reshape(head.shape)


def _decode_groups(head: TensorHead, body: Cursor) -> Array:
    if head.elements < lossy.SMALLEST_ELEMENTS:
        malformed("it is too small for groups")
    channels = _channels(head.shape)
    return dtypes.from_float32(lossy.decode(body, head.elements // channels, channels), head.dtype)


def _decode_klt(head: TensorHead, body: Cursor, basis: Basis | None) -> Array:
    if basis is None or head.name != CALIBRATED or _channels(head.shape) != basis.channels or not head.elements:
        malformed("this boundary has no calibration for it")
    level = body.byte()
    return dtypes.from_float32(klt.decode(body, head.elements // basis.channels, basis, level), head.dtype)


def _decode_planes(head: TensorHead, body: Cursor) -> Array:
    if head.dtype not in header.FLOATS:
        malformed(f"{head.dtype} is not coded that way")
    bits = lossless.decode_floats(body, np.dtype(f"u{header.ITEM_BYTES[head.dtype]}"), head.elements)
    array = bits.view(dtypes.STORED[head.dtype])
    if not dtypes.all_finite(array, head.dtype):
        malformed("it holds NaN or infinity")
    return array


def _channels(shape: tuple[int, ...]) -> int:
    """Returns the length of the last dimension; all others are tokens."""
    return shape[-1] if shape else 1
