"""Picture files for tests: good ones, and those that cost far more to decode than their bytes say."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture as a file of the kind that Pillow calls so."""
    store = io.BytesIO()
    picture.save(store, kind, **options)
    return store.getvalue()


def jpeg_of_scans(num_scans: int, edge_px: int = 1024) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are `num_scans`."""
    plain = saved(Image.new("RGB", (edge_px, edge_px), (90, 120, 200)), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    repeated = plain[last:-2]
    return plain[:last] + repeated * (num_scans - plain.count(b"\xff\xda") + 1) + plain[-2:]


def png_with(data: bytes, kind: bytes, body: bytes) -> bytes:
    """The PNG file with one more chunk before its pixels."""
    place = data.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:place] + chunk + data[place:]


def exif_block(entries: list[tuple[int, int, int, bytes]]) -> bytes:
    """A directory of (tag, type, count, value), little-endian; long values lie behind it."""
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    values_at, tail = len(head) + 12 * len(entries) + 4, b""
    for tag, kind, count, value in entries:
        head += struct.pack("<HHI", tag, kind, count)
        if len(value) <= 4:
            head += value.ljust(4, b"\0")
        else:
            head, tail = head + struct.pack("<I", values_at + len(tail)), tail + value
    return head + bytes(4) + tail


def jpeg_with_exif(picture: Image.Image, exif: bytes) -> bytes:
    body, segment = saved(picture, "JPEG", quality=95), b"Exif\0\0" + exif
    return body[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + body[2:]
