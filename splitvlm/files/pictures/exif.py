"""The orientation in a block of EXIF, and nothing else of it: nothing is written back, and no other tag is looked at.

EXIF 2.32, 4.6.2; TIFF 6.0, section 2. What cannot be read counts as upright.
"""

from __future__ import annotations

import struct

UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_PREFIX = b"Exif\0\0"
_READERS = {1: "B", 3: "H", 4: "I", 12: "d"}
"""Types that cameras write an orientation in: byte, short, long, double."""


def orientation_of(exif: bytes) -> int:
    """Returns the orientation tag of the first directory, 1..8. The prefix of JPEG's segment may stand before the block."""
    while exif.startswith(_PREFIX):
        exif = exif[len(_PREFIX) :]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for index in range(count):
            entry = directory + 2 + 12 * index
            tag, kind, _ = struct.unpack_from(order + "HHI", exif, entry)
            if tag == _ORIENTATION_TAG and kind in _READERS:
                return _orientation(order + _READERS[kind], exif, entry + 8)
    except struct.error:
        pass
    return UPRIGHT


def _orientation(form: str, exif: bytes, offset: int) -> int:
    if struct.calcsize(form) > 4:  # stored elsewhere; the entry holds its offset
        (offset,) = struct.unpack_from(form[0] + "I", exif, offset)
    (value,) = struct.unpack_from(form, exif, offset)
    return int(value) if value in range(1, 9) else UPRIGHT
