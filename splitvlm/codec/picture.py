"""The cut `image`: a picture, already resized to the model's input, to bytes and back.

    picture := file                                     JPEG, WebP, AVIF or PNG
             | 0x01 · width varint · height varint · file     of a picture that is brought back to this size (Lanczos)

Every level takes a picture of every size. Lossless is WebP, and PNG where a side is longer than WebP codes; where a side is
longer than a lossy level's format codes, the picture is scaled down to it and brought back.

The formats that are decoded are told by their first bytes, and by nothing else that a peer says; the picture's size is
read from its header and checked before any pixel is decoded. Metadata (EXIF, ICC, XMP) is not sent.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, Final

from PIL import Image, features

from splitvlm.codec.header import Cursor, varint
from splitvlm.codec.levels import LOSSLESS, MAX_SIDE_PX, PICTURE_FORMATS, PICTURE_LEVELS
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.files import pictures
from splitvlm.files.pictures import PictureHeader, PictureRefused

_FORMATS: Final = ("JPEG", "WEBP", "AVIF", "PNG")
_SCALED: Final = 1  # no format begins so
_RESIZED_BYTES: Final = 4  # a pixel, of the result and of what lies between the two passes of resizing
_LOSSLESS_EFFORT: Final = 50  # docs/experiments/codec-levels.md: 100 saves below 0.1 % for twice the time
_BEST: Final[dict[str, dict[str, Any]]] = {
    "JPEG": {"optimize": True, "progressive": True},
    "WEBP": {"method": 6},
    "AVIF": {"speed": 6, "max_threads": 1},
}


@cache
def picture_levels() -> tuple[str, ...]:
    """Returns those of PICTURE_LEVELS that Pillow can code here: it may have been built without AVIF."""
    avif = bool(features.check("avif"))
    return tuple(level for level in PICTURE_LEVELS if avif or PICTURE_FORMATS.get(level, ("",))[0] != "AVIF")


def encode_picture(picture: Image.Image, level: str) -> bytes:
    """Codes RGB pixels at one of `picture_levels()`. Other modes are converted to RGB first. Raises UsageError."""
    if level not in picture_levels():
        raise UsageError(
            f"'{level}' is no codec level of pictures.", advice=f"Known levels: {', '.join(picture_levels())}."
        )
    plain = Image.new("RGB", picture.size)  # carries no metadata
    plain.paste(pictures.to_rgb(picture))
    out = io.BytesIO()
    longest_px = max(plain.size)
    if level == LOSSLESS:
        if longest_px > MAX_SIDE_PX["WEBP"]:
            plain.save(out, "PNG")
        else:
            plain.save(out, "WEBP", lossless=True, quality=_LOSSLESS_EFFORT, method=4)
        return out.getvalue()
    kind, quality, scale = PICTURE_FORMATS[level]
    scale = min(scale, MAX_SIDE_PX[kind] / longest_px)
    if scale < 1:
        out.write(bytes((_SCALED,)) + varint(plain.width) + varint(plain.height))
        plain = plain.resize([max(1, round(side * scale)) for side in plain.size], Image.Resampling.LANCZOS)
    coded = io.BytesIO()
    plain.save(coded, kind, quality=quality, **_BEST[kind])
    return out.getvalue() + coded.getvalue()


def decode_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """Returns the RGB picture in `data`: JPEG, WebP, AVIF or PNG, a single frame, at most `max_pixels` large.

    Raises ProtocolError.
    """
    size, file = _unwrapped(data, max_pixels)
    with _refusals():
        restored = pictures.opened(file, max_pixels=max_pixels, formats=_FORMATS, animated=False)
    return restored if size is None else restored.resize(size, Image.Resampling.LANCZOS)


def inspect_coded_picture(data: bytes, *, max_pixels: int) -> PictureHeader:
    """Returns the header of what `decode_picture` would decode; `decoded_bytes` bounds its peak memory.

    Raises ProtocolError.
    """
    size, file = _unwrapped(data, max_pixels)
    with _refusals():
        header = pictures.inspect(file, max_pixels=max_pixels, formats=_FORMATS, animated=False)
    if size is None:
        return header
    resized_bytes = _RESIZED_BYTES * size[0] * (size[1] + header.height)
    return replace(header, width=size[0], height=size[1], decoded_bytes=header.decoded_bytes + resized_bytes)


def _unwrapped(data: bytes, max_pixels: int) -> tuple[tuple[int, int] | None, bytes]:
    """Returns the size that the picture is brought back to, where there is one, and its file."""
    if data[:1] != bytes((_SCALED,)):
        return None, data
    cursor = Cursor(memoryview(data)[1:])
    size = cursor.varint(max_pixels, "a picture's width"), cursor.varint(max_pixels, "a picture's height")
    if not 0 < size[0] * size[1] <= max_pixels:
        raise ProtocolError(
            f"A received picture has {size[0]} x {size[1]} pixels; between 1 and {max_pixels} are taken."
        )
    return size, bytes(cursor.take(cursor.left))


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except PictureRefused as refusal:
        raise ProtocolError(f"A received picture {refusal}.") from refusal
