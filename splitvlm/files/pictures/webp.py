"""A walk over a WebP file (RFC 9649): size, orientation. Of an animation the first frame is decoded."""

from __future__ import annotations

from splitvlm.files.pictures.exif import UPRIGHT, orientation_of
from splitvlm.files.pictures.layout import MAX_BLOCKS, PictureLayout, too_many_blocks, within
from splitvlm.files.pictures.refusal import PictureRefused

_GROUP_BYTES = 6_000  # five prefix codes of 256 entries of 4 bytes, and their packed table
_GROUP_FILE_BYTES = 2.5  # five codes of 4 bits
_MAX_GROUPS = 1 << 16
_GROUP_PIXELS = 16  # a group of codes for each 4 x 4 pixels at most
_SECOND_TABLES_BYTES = 8_000  # a group, for codes longer than 8 bits
_SECOND_TABLE_FILE_BYTES = 51  # of a second table, a byte of the file that describes such codes
_LOSSLESS = {b"VP8L", b"ALPH", b"ANMF"}  # chunks that are or may hold losslessly coded planes


def walk(data: bytes) -> PictureLayout:
    """Raises PictureRefused where the file names no size or has too many chunks."""
    width, height = _size(within(data, 12, 18))
    orientation, lossless, offset = UPRIGHT, False, 12
    for _ in range(MAX_BLOCKS):
        if offset + 8 > len(data):
            buffered_bytes = _prefix_code_bytes(width * height, len(data)) if lossless else 0
            return PictureLayout(data, width, height, orientation, buffered_bytes=buffered_bytes)
        kind, length = data[offset : offset + 4], int.from_bytes(data[offset + 4 : offset + 8], "little")
        if kind == b"EXIF":
            orientation = orientation_of(data[offset + 8 : offset + 8 + length])
        lossless = lossless or kind in _LOSSLESS
        offset += 8 + length + length % 2
    raise too_many_blocks()


def _prefix_code_bytes(pixels: int, file_bytes: int) -> int:
    """Returns the most memory that prefix codes can take: far above what encoders make, but a small file can ask for it."""
    groups = min(pixels / _GROUP_PIXELS + 1, _MAX_GROUPS, file_bytes / _GROUP_FILE_BYTES)
    return int(groups * _GROUP_BYTES + min(groups * _SECOND_TABLES_BYTES, _SECOND_TABLE_FILE_BYTES * file_bytes))


def _size(head: bytes) -> tuple[int, int]:
    """Returns width and height from the first chunk's first bytes: of the canvas, a lossy or a lossless picture."""
    match head[:4]:
        case b"VP8X":
            return 1 + int.from_bytes(head[12:15], "little"), 1 + int.from_bytes(head[15:18], "little")
        case b"VP8 " if head[11:14] == b"\x9d\x01\x2a":
            return int.from_bytes(head[14:16], "little") & 0x3FFF, int.from_bytes(head[16:18], "little") & 0x3FFF
        case b"VP8L" if head[8] == 0x2F:
            bits = int.from_bytes(head[9:13], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise PictureRefused("is damaged and cannot be read as a picture: it names no size")
