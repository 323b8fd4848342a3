"""A walk over an AVIF file (ISO/IEC 14496-12 and 23008-12): the largest size that it names, and how many frames it codes.

Sequences (brand `avis`) are refused; a picture may be one item or a grid of them. EXIF and XMP do not reach the decoder: its
items are given another type. The orientation is that of the picture's own properties, which Pillow reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from splitvlm.files.pictures.av1 import decoded_pixels
from splitvlm.files.pictures.layout import MAX_BLOCKS, PictureLayout, too_many_blocks, truncated, within
from splitvlm.files.pictures.refusal import PictureRefused

_MAX_FRAMES = 4
"""Frames as large as the picture: colour and alpha, each with a preview."""
_MAX_ITEMS = 1024
_METADATA = (b"Exif", b"mime")


@dataclass
class _Contents:
    """Holds what the boxes of `meta` say."""

    kinds: dict[int, bytes] = field(default_factory=dict)  # by item
    extents: dict[int, list[tuple[bool, int, int]]] = field(default_factory=dict)  # in `idat`, offset, length
    sizes: list[tuple[int, int]] = field(default_factory=list)
    inner: tuple[int, int] = (0, 0)  # where `idat` begins and ends
    metadata_kinds_at: list[int] = field(default_factory=list)


def walk(data: bytes) -> PictureLayout:
    """Raises PictureRefused for sequences, and for files whose frames are more or larger than their picture."""
    if data[8:12] != b"avif":
        raise PictureRefused("is not taken: it is a sequence of AVIF pictures")
    contents = _Contents()
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            _read_meta(data, start + 4, end, contents)
    width, height = max(contents.sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    frames_pixels = 0
    for bitstream in _bitstreams(data, contents):
        largest, in_all = decoded_pixels(bitstream)
        if largest > width * height:
            raise PictureRefused("is not taken: its frames are larger than the picture")
        frames_pixels += in_all
    if frames_pixels > _MAX_FRAMES * width * height:
        raise PictureRefused("is not taken: it codes many more frames than it shows")
    pixels = bytearray(data)
    for offset in contents.metadata_kinds_at:
        pixels[offset : offset + 4] = b"skip"
    return PictureLayout(bytes(pixels), width, height)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields each box's type, and where its body begins and ends."""
    for _ in range(MAX_BLOCKS):
        if start + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            size, head = int.from_bytes(within(data, start + 8, 8), "big"), 16
        stop = end if size == 0 else start + size
        if not start + head <= stop <= end:
            raise truncated()
        yield kind, start + head, stop
        start = stop
    raise too_many_blocks()


def _read_meta(data: bytes, start: int, end: int, contents: _Contents) -> None:
    for kind, begin, stop in _boxes(data, start, end):
        if kind == b"iinf":
            _read_kinds(data, begin, stop, contents)
        elif kind == b"iloc":
            _read_extents(within(data, begin, stop - begin), contents)
        elif kind == b"idat":
            contents.inner = begin, stop
        elif kind == b"iprp":
            properties = [box for box in _boxes(data, begin, stop) if box[0] == b"ipco"]
            for _, first, last in properties:
                boxes = _boxes(data, first, last)
                contents.sizes += [
                    struct.unpack(">II", within(data, at + 4, 8)) for name, at, _ in boxes if name == b"ispe"
                ]


def _read_kinds(data: bytes, start: int, end: int, contents: _Contents) -> None:
    first = start + (6 if within(data, start, 1)[0] == 0 else 8)  # a count of 16 or 32 bits
    for kind, begin, _ in _boxes(data, first, end):
        if kind != b"infe":
            continue
        id_bytes = 2 if within(data, begin, 1)[0] == 2 else 4
        kind_at = begin + 4 + id_bytes + 2
        item_kind = within(data, kind_at, 4)
        contents.kinds[int.from_bytes(data[begin + 4 : begin + 4 + id_bytes], "big")] = item_kind
        if item_kind in _METADATA:
            contents.metadata_kinds_at.append(kind_at)


class _Fields:
    """Reads numbers of given lengths, one after another."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._data, self._offset = data, offset

    def take(self, length: int) -> int:
        value = int.from_bytes(within(self._data, self._offset, length), "big")
        self._offset += length
        return value


def _read_extents(body: bytes, contents: _Contents) -> None:
    version = within(body, 0, 1)[0]
    fields = _Fields(body, 4)
    sizes = fields.take(2)
    offset_bytes, length_bytes, base_bytes, index_bytes = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    id_bytes = 4 if version == 2 else 2
    for _ in range(_counted(fields.take(id_bytes))):
        item = fields.take(id_bytes)
        method = fields.take(2) & 15 if version else 0
        if method > 1:
            raise PictureRefused("is not taken: its parts lie within other parts")
        fields.take(2)
        base = fields.take(base_bytes)
        extents = contents.extents[item] = []
        for _ in range(_counted(fields.take(2))):
            if version:
                fields.take(index_bytes)
            extents.append((method == 1, base + fields.take(offset_bytes), fields.take(length_bytes)))


def _counted(count: int) -> int:
    if count > _MAX_ITEMS:
        raise PictureRefused(f"is not taken: it has more than {_MAX_ITEMS} parts")
    return count


def _bitstreams(data: bytes, contents: _Contents) -> Iterator[bytes]:
    """Yields the coded frames of each item. Parts that overlap would cost more than the file's length, and are refused."""
    left = len(data)
    for item, extents in contents.extents.items():
        if contents.kinds.get(item) != b"av01":
            continue
        pieces = []
        for is_inner, offset, length in extents:
            start = offset + contents.inner[0] if is_inner else offset
            piece = within(data, start, length or len(data) - start)
            left -= len(piece)
            if left < 0:
                raise PictureRefused("is not taken: its parts overlap")
            pieces.append(piece)
        yield b"".join(pieces)
