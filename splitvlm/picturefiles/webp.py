"""A walk over a WebP file (RFC 9649): size, orientation. Of an animation the first frame is decoded."""

from __future__ import annotations

from splitvlm.picturefiles.exif import UPRIGHT, orientation_of
from splitvlm.picturefiles.layout import MAX_BLOCKS, Layout, too_many_blocks, within
from splitvlm.picturefiles.refusal import PictureRefused

_GROUP_BYTES = 6_000  # five prefix codes of 256 entries of 4 bytes, and their packed table
_GROUP_FILE_BYTES = 2.5  # five codes of 4 bits
_MAX_GROUPS = 1 << 16
_GROUP_PIXELS = 16  # a group of codes for each 4 x 4 pixels at most
_LONGER_CODES = 100  # bytes of tables that a byte of the file can buy by longer codes


def walk(data: bytes) -> Layout:
    """Raises PictureRefused where the file names no size or has too many chunks."""
    width, height = _size(within(data, 12, 18))
    orientation, place = UPRIGHT, 12
    for _ in range(MAX_BLOCKS):
        if place + 8 > len(data):
            groups = min(width * height / _GROUP_PIXELS + 1, _MAX_GROUPS, len(data) / _GROUP_FILE_BYTES)
            tables = 0 if data[12:16] == b"VP8 " else int(groups * _GROUP_BYTES + _LONGER_CODES * len(data))
            return Layout(data, width, height, orientation, buffered_bytes=tables)
        kind, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind == b"EXIF":
            orientation = orientation_of(data[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    raise too_many_blocks()


def _size(head: bytes) -> tuple[int, int]:
    """Width and height from the first chunk's first bytes: of the canvas, a lossy or a lossless picture."""
    match head[:4]:
        case b"VP8X":
            return 1 + int.from_bytes(head[12:15], "little"), 1 + int.from_bytes(head[15:18], "little")
        case b"VP8 " if head[11:14] == b"\x9d\x01\x2a":
            return int.from_bytes(head[14:16], "little") & 0x3FFF, int.from_bytes(head[16:18], "little") & 0x3FFF
        case b"VP8L" if head[8] == 0x2F:
            bits = int.from_bytes(head[9:13], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise PictureRefused("is damaged and cannot be read as a picture: it names no size")
