"""All tensors at a cut, to bytes and back.

    boundary := version u8 = 1 · ...                                            header.py
              | 16 + level u8 · own ids (prompt.py) · body without its level     at calibrated levels

The second form is that of `hidden` (float32, of the shape that calibration saw, coded by klt.py) and of a prompt's `ids` that
follow the model's template, where nothing else needs saying: some 40 bytes less, of about 150.

`encode` is for our own tensors: what it cannot send is a UsageError. `decode` is for bytes of a peer: whatever they
are, it returns tensors within the limits or raises ProtocolError. Integers are exact at every level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from splitvlm.codec import header, integers, klt, lossless, lossy
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

_TORCH: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in header.DTYPES}
_NAMES: Final = {dtype: name for name, dtype in _TORCH.items()}
_SAME_WIDTH: Final = {2: torch.int16, 4: torch.int32}  # numpy knows no bfloat16: floats pass as integers of their width


def encode(boundary: dict[str, torch.Tensor], level: str, basis: Basis | None = None) -> bytes:
    """Codes all tensors of a boundary, at one of FEATURE_LEVELS, or of KLT_STEPS with the `basis` of its tensor `hidden`.

    Raises UsageError for an unknown level, a dtype that does not cross cuts, and NaN or infinity.
    """
    if level not in FEATURE_LEVELS and (level not in KLT_STEPS or basis is None):
        raise UsageError(
            f"'{level}' is no codec level of features.", advice=f"Known levels: {', '.join(FEATURE_LEVELS)}."
        )
    if basis is not None and level in KLT_STEPS and _is_short(boundary, basis):
        x_TC = boundary[CALIBRATED].detach().cpu().contiguous().reshape(-1, basis.channels).numpy()
        coded, own = klt.encode(x_TC, basis, level), basis.template.encode(boundary[IDS].tolist())
        if coded is not None and own is not None:
            return bytes((header.SHORT + coded[0],)) + own + coded[1:]
    if len(boundary) > 255:
        raise UsageError(f"A boundary of {len(boundary)} tensors does not fit the format.")
    tensors = (_encode_tensor(name, tensor.detach().cpu(), level, basis) for name, tensor in boundary.items())
    return bytes((header.VERSION, len(boundary))) + b"".join(tensors)


def decode(data: bytes, *, limits: CodecLimits, basis: Basis | None = None) -> dict[str, torch.Tensor]:
    """Returns the tensors of a coded boundary, on the CPU, in their own dtypes and order. Raises ProtocolError."""
    cursor = Cursor(data)
    version = cursor.byte()
    if version >= header.SHORT:
        return _decode_short(cursor, version - header.SHORT, limits, basis)
    return {head.name: _decode_tensor(head, body, basis) for head, body in _bodies(cursor, version, limits)}


def outline(data: bytes, *, limits: CodecLimits, basis: Basis | None = None) -> dict[str, torch.Tensor]:
    """Returns what `decode` would return, as tensors without data (on the device "meta"): nothing is decoded.

    Raises ProtocolError.
    """
    cursor = Cursor(data)
    version = cursor.byte()
    if version < header.SHORT:
        heads = {head.name: head for head, _ in _bodies(cursor, version, limits)}
        return {name: _without_data(head.shape, _TORCH[head.dtype]) for name, head in heads.items()}
    shape, left, basis = _short_shape(limits, basis)
    num_ids = basis.template.length(cursor, _most_ids(left))
    return {CALIBRATED: _without_data(shape, torch.float32), IDS: _without_data((num_ids,), torch.int64)}


def decoding_bytes(outline: Mapping[str, torch.Tensor]) -> int:
    """Returns peak memory that decoding a boundary of this outline takes, beside its bytes: an upper bound for every level."""
    return sum(
        tensor.numel() * (FLOAT_BYTES if tensor.is_floating_point() else INTEGER_BYTES) for tensor in outline.values()
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


def _without_data(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _is_short(boundary: dict[str, torch.Tensor], basis: Basis) -> bool:
    if list(boundary) != [CALIBRATED, IDS]:
        return False
    hidden, ids = boundary[CALIBRATED], boundary[IDS]
    if not basis.shape or hidden.shape != (*basis.shape, basis.channels):
        return False
    return (hidden.dtype, ids.dtype, ids.ndim) == (torch.float32, torch.int64, 1) and _all_finite(hidden)


def _decode_short(cursor: Cursor, level: int, limits: CodecLimits, basis: Basis | None) -> dict[str, torch.Tensor]:
    shape, left, basis = _short_shape(limits, basis)
    ids = basis.template.decode(cursor, _most_ids(left))
    hidden = torch.from_numpy(klt.decode(cursor, math.prod(basis.shape), basis, level)).reshape(shape)
    cursor.end()
    return {CALIBRATED: hidden, IDS: torch.tensor(ids, dtype=torch.int64)}


def _short_shape(limits: CodecLimits, basis: Basis | None) -> tuple[tuple[int, ...], CodecLimits, Basis]:
    """Reads `hidden` in the second form; returns it and what it leaves of the limits."""
    if basis is None or not basis.shape:
        malformed("this boundary has no calibration for it")
    shape = (*basis.shape, basis.channels)
    return shape, limits.less(math.prod(shape), 4 * math.prod(shape)), basis


def _most_ids(left: CodecLimits) -> int:
    return min(left.max_elements, left.max_decoded_bytes // 8)


def _encode_tensor(name: str, tensor: torch.Tensor, level: str, basis: Basis | None) -> bytes:
    dtype = _NAMES.get(tensor.dtype)
    if dtype is None:
        raise UsageError(f"The tensor '{name}' is {tensor.dtype}.", advice=f"At a cut: {', '.join(header.DTYPES)}.")
    if dtype in header.FLOATS and not _all_finite(tensor):
        raise UsageError(
            f"The tensor '{name}' at the cut holds NaN or infinity.",
            advice="Some models overflow in float16: try float32.",
        )
    coding, body = _encode_body(tensor, dtype, level, basis if name == CALIBRATED else None)
    return header.pack_head(TensorHead(name, dtype, tuple(tensor.shape), coding)) + varint(len(body)) + body


def _encode_body(tensor: torch.Tensor, dtype: str, level: str, basis: Basis | None) -> tuple[Coding, bytes]:
    if dtype not in header.FLOATS:
        return Coding.INTEGERS, integers.encode(tensor.contiguous().reshape(-1).numpy())
    if level in KLT_STEPS and basis is not None:
        x_TC = tensor.to(torch.float32).contiguous().reshape(-1, _channels(tuple(tensor.shape))).numpy()
        body = klt.encode(x_TC, basis, level)
        if body is not None:
            return Coding.KLT, body
    if level in BITS and tensor.numel() >= lossy.SMALLEST_ELEMENTS:
        x_TC = tensor.to(torch.float32).contiguous().reshape(-1, _channels(tuple(tensor.shape))).numpy()
        if lossy.fits(x_TC):
            return Coding.GROUPS, lossy.encode(x_TC, BITS[level])
    bits = tensor.contiguous().reshape(-1).view(_SAME_WIDTH[tensor.element_size()]).numpy()
    return Coding.PLANES, lossless.encode_floats(bits.view(f"u{tensor.element_size()}"))


def _decode_tensor(head: TensorHead, body: Cursor, basis: Basis | None) -> torch.Tensor:
    if head.coding is Coding.INTEGERS:
        tensor = torch.from_numpy(integers.decode(body, np.dtype(head.dtype), head.elements))
    elif head.coding is Coding.GROUPS:
        tensor = _decode_groups(head, body)
    elif head.coding is Coding.KLT:
        tensor = _decode_klt(head, body, basis)
    else:
        tensor = _decode_planes(head, body)
    body.end()
    return tensor.reshape(head.shape)


def _decode_groups(head: TensorHead, body: Cursor) -> torch.Tensor:
    if head.elements < lossy.SMALLEST_ELEMENTS:
        malformed("it is too small for groups")
    channels = _channels(head.shape)
    x_TC = torch.from_numpy(lossy.decode(body, head.elements // channels, channels))
    return _as(x_TC, head.dtype)


def _decode_klt(head: TensorHead, body: Cursor, basis: Basis | None) -> torch.Tensor:
    if basis is None or head.name != CALIBRATED or _channels(head.shape) != basis.channels or not head.elements:
        malformed("this boundary has no calibration for it")
    level = body.byte()
    return _as(torch.from_numpy(klt.decode(body, head.elements // basis.channels, basis, level)), head.dtype)


def _as(x_TC: torch.Tensor, dtype: str) -> torch.Tensor:
    """Returns the values in the dtype; those beyond its range, by rounding or by a peer that lies, become the range's end."""
    largest = torch.finfo(_TORCH[dtype]).max
    return x_TC.clamp_(-largest, largest).to(_TORCH[dtype])


def _decode_planes(head: TensorHead, body: Cursor) -> torch.Tensor:
    if head.dtype not in header.FLOATS:
        malformed(f"{head.dtype} is not coded that way")
    width = header.ITEM_BYTES[head.dtype]
    bits: npt.NDArray[np.generic] = lossless.decode_floats(body, np.dtype(f"u{width}"), head.elements)
    tensor = torch.from_numpy(bits.view(f"i{width}")).view(_TORCH[head.dtype])
    if not _all_finite(tensor):
        malformed("it holds NaN or infinity")
    return tensor


def _all_finite(tensor: torch.Tensor) -> bool:
    """Returns whether all values are finite. The sum says so many times faster, but large values may overflow in it."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _channels(shape: tuple[int, ...]) -> int:
    """Returns the length of the last dimension; all others are tokens."""
    return shape[-1] if shape else 1
