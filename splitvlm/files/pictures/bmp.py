"""A walk over a BMP file: size and compression. Run-length codes are refused: Pillow decodes them in Python, byte by byte."""

from __future__ import annotations

import struct

from splitvlm.files.pictures.layout import PictureLayout, within
from splitvlm.files.pictures.refusal import PictureRefused

_CORE_HEADER_BYTES = 12
_UNCOMPRESSED = {0, 3, 6}  # plain, with bit fields, with bit fields and alpha


def walk(data: bytes) -> PictureLayout:
    """Raises PictureRefused where the header is cut short or names a compression."""
    header_bytes = int.from_bytes(within(data, 14, 4), "little")
    if header_bytes == _CORE_HEADER_BYTES:
        width, height = struct.unpack("<HH", within(data, 18, 4))
        return PictureLayout(data, width, height)
    width, height, _, _, compression = struct.unpack("<iiHHI", within(data, 18, 16))
    if compression not in _UNCOMPRESSED:
        raise PictureRefused("is not taken: it is a compressed BMP")
    return PictureLayout(data, abs(width), abs(height))
