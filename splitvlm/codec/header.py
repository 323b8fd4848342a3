"""The envelope: varints, the bounds-checked cursor over received bytes, and the head of each coded tensor.

    boundary := version u8 · count u8 · tensor*count                        nothing may follow
    tensor   := name · kind u8 · ndim u8 · dim varint*ndim · length varint · body[length]
    name     := u8 in 1..127, a place in NAMES (from 1)  |  u8 = 128 + n, then n bytes of ASCII identifier
    kind     := dtype (low 4 bits, a place in DTYPES) | coding (high 4 bits)

A varint is LEB128: seven bits a byte, least first, the eighth says that more follow (as in protobuf).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NoReturn

from splitvlm.codec.limits import CodecLimits
from splitvlm.errors import ProtocolError, UsageError

VERSION: Final = 1
SHORT: Final = 16  # and above: boundary.py

NAMES: Final[tuple[str, ...]] = (
    "hidden",
    "ids",
    "features",
    "tokens",
    "visual",
    "mask",
    "positions",
    "attention_mask",
    "position_ids",
    "input_ids",
    "grid",
    "image_grid_thw",
    "residual",
    "rope_deltas",
    "token_type_ids",
    "cu_seqlens",
    "patch_mask",
)
"""Names that cost one byte. Append only: a place in it is part of the format."""

DTYPES: Final[tuple[str, ...]] = ("float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
ITEM_BYTES: Final[dict[str, int]] = {
    "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "uint8": 1, "bool": 1,
}  # fmt: skip
FLOATS: Final = frozenset(("float32", "float16", "bfloat16"))

_LITERAL = 128
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")
_MAX_VARINT_BYTES = 9  # 63 bits: no size that we accept is larger


class Coding(IntEnum):
    """Names how a tensor's body is coded."""

    PLANES = 0  # lossless.py
    INTEGERS = 1  # integers.py
    GROUPS = 2  # lossy.py
    KLT = 3  # klt.py, where the boundary was calibrated


@dataclass(frozen=True, slots=True)
class TensorHead:
    """Holds what precedes a tensor's body: its name, dtype, shape and coding."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    coding: Coding

    @property
    def elements(self) -> int:
        """Returns the number of elements of the tensor."""
        return math.prod(self.shape)


def malformed(what: str) -> NoReturn:
    """Raises the ProtocolError of a coded boundary that breaks the format."""
    raise ProtocolError(f"A coded tensor is malformed: {what}.")


def varint(value: int) -> bytes:
    """Returns a non-negative integer as LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Cursor:
    """Reads received bytes forward, and never beyond their end. All its methods raise ProtocolError."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._offset = 0

    @property
    def left(self) -> int:
        """Returns the number of bytes that were not read yet."""
        return len(self._data) - self._offset

    def take(self, count: int) -> memoryview:
        """Returns the next `count` bytes without copying them. Raises ProtocolError where fewer are left."""
        if count > self.left:
            malformed("it ends too early")
        self._offset += count
        return self._data[self._offset - count : self._offset]

    def byte(self) -> int:
        """Returns the next byte. Raises ProtocolError at the end."""
        return self.take(1)[0]

    def varint(self, limit: int, what: str) -> int:
        """Reads a varint that must not exceed `limit`."""
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                break
        else:
            malformed(f"{what} is too long a number")
        if value > limit:
            malformed(f"{what} is {value}, above {limit}")
        return value

    def end(self) -> None:
        """Raises ProtocolError where bytes are left over."""
        if self.left:
            malformed("bytes are left over")


def pack_head(head: TensorHead) -> bytes:
    """Raises UsageError for a name or number of dimensions that the format has no room for."""
    if head.name not in NAMES and _NAME.fullmatch(head.name) is None:
        raise UsageError(f"'{head.name}' cannot name a tensor at a cut.")
    if len(head.shape) > 255:
        raise UsageError(f"The tensor '{head.name}' has too many dimensions.")
    name = (
        bytes((NAMES.index(head.name) + 1,))
        if head.name in NAMES
        else bytes((_LITERAL + len(head.name),)) + head.name.encode("ascii")
    )
    kind = DTYPES.index(head.dtype) | head.coding << 4
    return name + bytes((kind, len(head.shape))) + b"".join(map(varint, head.shape))


def read_head(cursor: Cursor, limits: CodecLimits) -> TensorHead:
    """Reads the head of the next tensor, its sizes held against `limits`. Raises ProtocolError."""
    name = _read_name(cursor)
    kind = cursor.byte()
    if kind & 15 >= len(DTYPES) or kind >> 4 >= len(Coding):
        malformed("its dtype or coding is unknown")
    dtype, coding = DTYPES[kind & 15], Coding(kind >> 4)
    if (coding in (Coding.GROUPS, Coding.KLT) and dtype not in FLOATS) or (
        coding is Coding.INTEGERS and dtype in FLOATS
    ):
        malformed(f"{dtype} is not coded that way")
    ndim = cursor.byte()
    if ndim > limits.max_dims:
        malformed(f"it has {ndim} dimensions, above {limits.max_dims}")
    shape = tuple(cursor.varint(limits.max_elements, "a dimension") for _ in range(ndim))
    head = TensorHead(name, dtype, shape, coding)
    if head.elements > limits.max_elements or head.elements * ITEM_BYTES[dtype] > limits.max_decoded_bytes:
        malformed("it is larger than is accepted")
    return head


def _read_name(cursor: Cursor) -> str:
    code = cursor.byte()
    if code > _LITERAL:
        name = bytes(cursor.take(code - _LITERAL)).decode("ascii", errors="replace")
        if _NAME.fullmatch(name) is None or name in NAMES:
            malformed("its name is not a name")
        return name
    if not 1 <= code <= len(NAMES):
        malformed("its name is unknown")
    return NAMES[code - 1]
