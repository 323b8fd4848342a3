"""A walk over a PNG file (W3C PNG, third edition): size, orientation.

A decoder gets the header, palette, transparency and pixels. Text, profiles and an animation's later frames do not reach it.
"""

from __future__ import annotations

import struct

from splitvlm.files.pictures.exif import UPRIGHT, orientation_of
from splitvlm.files.pictures.layout import MAX_BLOCKS, PictureLayout, Samples, too_many_blocks, truncated, within

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HOLD_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def walk(data: bytes) -> PictureLayout:
    """Raises PictureRefused where the file does not begin with its header, ends early or has too many chunks."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise truncated()
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    kept, orientation, significant_bits, offset = [SIGNATURE], UPRIGHT, bits, len(SIGNATURE)
    for _ in range(MAX_BLOCKS):
        length = int.from_bytes(within(data, offset, 8)[:4], "big")
        kind, end = data[offset + 4 : offset + 8], offset + 12 + length
        if kind in _HOLD_PIXELS:
            kept.append(within(data, offset, 12 + length))
        elif kind == b"eXIf":
            orientation = orientation_of(within(data, offset + 8, length))
        elif kind == b"sBIT" and length:
            significant_bits = within(data, offset + 8, length)[0]
        if kind == b"IEND":
            samples = Samples(bits, significant_bits)
            return PictureLayout(b"".join(kept), width, height, orientation, samples=samples)
        offset = end
    raise too_many_blocks()
