"""A walk over a JPEG file (ITU-T T.81, annex B): size, scans, orientation.

A decoder gets the tables, the frame and the scans of the first picture, with the two application segments that say how
colours are coded. Comments, EXIF, ICC, thumbnails and further pictures (MPO) do not reach it.
"""

from __future__ import annotations

import re
import struct

from splitvlm.files.pictures.exif import UPRIGHT, orientation_of
from splitvlm.files.pictures.layout import MAX_BLOCKS, MAX_SCANS, PictureLayout, too_many_blocks, within
from splitvlm.files.pictures.refusal import PictureRefused

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # a scan's data may hold stuffed bytes and restarts
_START, _END, _SCAN, _APPLICATION, _COMMENT = 0xD8, 0xD9, 0xDA, range(0xE0, 0xF0), 0xFE
_ALONE = {0x01, _START, *range(0xD0, 0xD8)}  # markers without a length
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # those that decoders know: sequential and progressive
_PROGRESSIVE = {0xC2, 0xCA}
_BLOCK_EDGE_PX = 32  # a unit of blocks at the largest sampling factor, 4


def walk(data: bytes) -> PictureLayout:
    """Raises PictureRefused where the file has no frame, too many scans or too many segments."""
    kept = [b"\xff\xd8"]
    frame: tuple[int, bytes] | None = None
    exif, scans, offset = b"", 0, 2
    for _ in range(MAX_BLOCKS):
        segment = _MARKER.search(data, offset)
        if segment is None or data[segment.end() - 1] == _END:
            kept += (
                [segment[0]] if segment else []
            )  # a file that ends without it is cut short, and its decoder must see so
            return _layout(kept, frame, scans, exif)
        marker, offset = data[segment.end() - 1], segment.end()
        if marker in _ALONE:
            continue
        length = int.from_bytes(within(data, offset, 2), "big")
        body, start, offset = within(data, offset, length)[2:], offset, offset + max(2, length)
        if marker == _SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise PictureRefused(f"is not taken: it is coded in more than {MAX_SCANS} scans")
            after = _MARKER_AFTER_SCAN.search(data, offset)
            offset = after.start() if after else len(data)
        elif marker in _FRAMES and frame is None:
            frame = marker, body
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        if _holds_pixels(marker, body):
            kept += [bytes((0xFF, marker)), data[start:offset]]
    raise too_many_blocks()


def _holds_pixels(marker: int, body: bytes) -> bool:
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == 0xEE:
        return body.startswith(b"Adobe") and len(body) >= 12
    return marker not in _APPLICATION and marker != _COMMENT


def _layout(kept: list[bytes], frame: tuple[int, bytes] | None, scans: int, exif: bytes) -> PictureLayout:
    if frame is None or len(frame[1]) < 6:
        raise PictureRefused("is damaged and cannot be read as a picture: it has no frame")
    marker, body = frame
    height, width, components = struct.unpack_from(">HHB", body, 1)
    all_at_once = marker in _PROGRESSIVE or scans > 1
    padded = (width + _BLOCK_EDGE_PX) * (height + _BLOCK_EDGE_PX)
    return PictureLayout(
        b"".join(kept),
        *(width, height),
        orientation=orientation_of(exif) if exif else UPRIGHT,
        scans=scans,
        buffered_bytes=2 * components * padded if all_at_once else 0,
    )
