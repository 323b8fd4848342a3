"""A walk over a TIFF file (TIFF 6.0): size, compression, orientation, and what it says of its samples.

Taken are files that are uncompressed or coded by LZW, Deflate or PackBits: their decoders are small. Fax codes, JPEG,
JPEG 2000, WebP, Zstandard, LZMA and BigTIFF are refused. A decoder gets the first directory with the tags that say where
and how pixels lie; EXIF, profiles, further pages and private tags do not reach it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from splitvlm.files.pictures.exif import UPRIGHT
from splitvlm.files.pictures.layout import MAX_BLOCKS, PictureLayout, Samples, too_many_blocks, truncated, within
from splitvlm.files.pictures.refusal import PictureRefused

_COUNTS = {1: "B", 3: "H", 4: "I"}
_NUMBERS = _COUNTS | {6: "b", 8: "h", 9: "i", 11: "f", 12: "d"}  # the stated range may be of any
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_STRIP_BYTES, _TILE_BYTES = 279, 325
_TILE_WIDTH, _TILE_HEIGHT, _FORMAT, _LOWEST, _HIGHEST = 322, 323, 339, 340, 341
_HOLD_PIXELS = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _TILE_WIDTH, _TILE_HEIGHT, _FORMAT),
    *(266, 273, 277, 278, _STRIP_BYTES),  # fill order, strips, samples a pixel
    *(284, 317, 320, 324, _TILE_BYTES, 338, 529, 530, 532),  # planes, predictor, palette, tiles, extra samples, YCbCr
}
_READ = _HOLD_PIXELS | {_ORIENTATION, _LOWEST, _HIGHEST}
_COMPRESSIONS = {1: "none", 5: "LZW", 8: "Deflate", 32773: "PackBits", 32946: "Deflate"}
_MAX_TILE_PIXELS = 1 << 24
_SAMPLE_BYTES = 8  # a pixel of a tile: four samples of 16 bits
_UNCOMPRESSED, _WHITE_IS_ZERO, _UNSIGNED = 1, 0, 1
Number = int | float


@dataclass(frozen=True)
class _Directory:
    order: str  # "<" or ">"
    entries: dict[int, bytes]  # by tag, of those that say where and how pixels lie
    values: dict[int, tuple[Number, ...]]

    def first(self, tag: int, otherwise: int = 0) -> Number:
        return next(iter(self.values.get(tag, ())), otherwise)


def walk(data: bytes) -> PictureLayout:
    """Raises PictureRefused where the directory lies outside the file, or names a compression that is not taken."""
    directory = _directory(data)
    width, height = int(directory.first(_WIDTH)), int(directory.first(_HEIGHT))
    compression = int(directory.first(_COMPRESSION, 1))
    if compression not in _COMPRESSIONS:
        taken = ", ".join(dict.fromkeys(_COMPRESSIONS.values()))
        raise PictureRefused(f"is not taken: it is a TIFF file of compression {compression}, not one of {taken}")
    stored_bytes = sum(directory.values.get(_STRIP_BYTES, ())) + sum(directory.values.get(_TILE_BYTES, ()))
    if compression != _UNCOMPRESSED and stored_bytes > len(data):
        raise PictureRefused("is not taken: its parts overlap")  # each would be read anew
    tile_pixels = int(directory.first(_TILE_WIDTH)) * int(directory.first(_TILE_HEIGHT))
    if tile_pixels > max(width * height, _MAX_TILE_PIXELS):
        raise PictureRefused("is not taken: its tiles are larger than the picture")
    orientation = int(directory.first(_ORIENTATION, UPRIGHT))
    return PictureLayout(
        _with_directory(data, directory),
        *(width, height),
        orientation=orientation if orientation in range(1, 9) else UPRIGHT,
        buffered_bytes=_SAMPLE_BYTES * tile_pixels,
        samples=_samples(directory),
    )


def _directory(data: bytes) -> _Directory:
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", within(data, 4, 4))
    (count,) = struct.unpack(order + "H", within(data, start, 2))
    block = within(data, start + 2, 12 * count)
    entries: dict[int, bytes] = {}
    values: dict[int, tuple[Number, ...]] = {}
    for start in range(0, len(block), 12):
        tag, kind, length = struct.unpack_from(order + "HHI", block, start)
        types = _NUMBERS if tag in (_LOWEST, _HIGHEST) else _COUNTS
        if tag not in _READ or kind not in types or tag in values:
            continue
        if length > MAX_BLOCKS:
            raise too_many_blocks()
        entry = block[start : start + 12]
        form = f"{order}{length}{types[kind]}"
        inline = struct.calcsize(form) <= 4
        value_at = 8 if inline else struct.unpack_from(order + "I", entry, 8)[0]
        values[tag] = struct.unpack(form, within(entry if inline else data, value_at, struct.calcsize(form)))
        if tag in _HOLD_PIXELS:
            entries[tag] = entry
    return _Directory(order, entries, values)


def _with_directory(data: bytes, tags: _Directory) -> bytes:
    """Returns the file with a directory at its end that holds only what a decoder needs, and no next one."""
    padding = bytes(len(data) % 2)
    directory_at = len(data) + len(padding)
    if directory_at >= 1 << 32:
        raise truncated()
    count = struct.pack(tags.order + "H", len(tags.entries))
    directory = count + b"".join(tags.entries[tag] for tag in sorted(tags.entries)) + bytes(4)
    return b"".join([data[:4], struct.pack(tags.order + "I", directory_at), data[8:], padding, directory])


def _samples(tags: _Directory) -> Samples:
    lowest, highest = tags.values.get(_LOWEST), tags.values.get(_HIGHEST)
    return Samples(
        bits=int(tags.first(_BITS, 1)),
        significant_bits=int(tags.first(_BITS, 1)),
        lowest=float(lowest[0]) if lowest and highest else None,
        highest=float(highest[0]) if lowest and highest else None,
        white_is_zero=tags.first(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        unsigned=tags.first(_FORMAT, _UNSIGNED) == _UNSIGNED,
    )
