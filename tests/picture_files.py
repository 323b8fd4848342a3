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
