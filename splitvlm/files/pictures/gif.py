"""A walk over a GIF file (GIF89a) to its first frame. Comments, application blocks and later frames do not reach a decoder."""

from __future__ import annotations

import struct

from splitvlm.files.pictures.layout import MAX_BLOCKS, PictureLayout, too_many_blocks, truncated, within

_HEADER_BYTES, _FRAME_BYTES = 13, 10
_IMAGE, _EXTENSION, _TRAILER, _GRAPHIC_CONTROL = 0x2C, 0x21, b"\x3b", 0xF9


def walk(data: bytes) -> PictureLayout:
    """Raises PictureRefused where the file ends before its first frame does, or has too many blocks before it."""
    width, height, flags = struct.unpack_from("<HHB", within(data, 0, _HEADER_BYTES), 6)
    offset = _HEADER_BYTES + _palette_bytes(flags)
    head, control = within(data, 0, offset), b""
    for _ in range(MAX_BLOCKS):
        introducer = within(data, offset, 1)[0]
        if introducer == _IMAGE:
            frame = within(data, offset, _FRAME_BYTES)
            left, top, frame_width, frame_height, frame_flags = struct.unpack_from("<HHHHB", frame, 1)
            end = _after_blocks(data, offset + _FRAME_BYTES + _palette_bytes(frame_flags) + 1)
            size = max(width, left + frame_width), max(height, top + frame_height)
            return PictureLayout(b"".join([head, control, data[offset:end], _TRAILER]), *size)
        if introducer != _EXTENSION:
            raise truncated()
        end = _after_blocks(data, offset + 2)
        if within(data, offset, 2)[1] == _GRAPHIC_CONTROL:
            control = data[offset:end]
        offset = end
    raise too_many_blocks()


def _palette_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, offset: int) -> int:
    """Returns where a chain of sub-blocks ends: each begins with its length, and an empty one is the last."""
    while length := within(data, offset, 1)[0]:
        offset += 1 + length
    return offset + 1
