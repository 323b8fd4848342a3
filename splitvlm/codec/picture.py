"""The cut `image`: a picture, already resized to the model's input, to bytes and back.

    picture := file                                     JPEG, WebP or AVIF
             | 0x01 · width varint · height varint · file     of a picture that is brought back to this size (Lanczos)

The formats that are decoded are told by their first bytes, and by nothing else that a peer says; the picture's size is
read from its header and checked before any pixel is decoded. Metadata (EXIF, ICC, XMP) is not sent.
"""

from __future__ import annotations

import io
import struct
import warnings
from functools import cache
from typing import Any, Final

from PIL import Image, features

from splitvlm.codec.header import Cursor, varint
from splitvlm.codec.levels import LOSSLESS, PICTURE_FORMATS, PICTURE_LEVELS
from splitvlm.errors import ProtocolError, UsageError

_JPEG: Final = b"\xff\xd8\xff"
_RIFF, _WEBP = b"RIFF", b"WEBP"
_FTYP, _AVIF = b"ftyp", b"avif"
_SCALED: Final = 1  # no format begins so
_LOSSLESS_EFFORT: Final = 50  # docs/codec.md: 100 saves below 0.1 % for twice the time
_BEST: Final[dict[str, dict[str, Any]]] = {
    "JPEG": {"optimize": True, "progressive": True},
    "WEBP": {"method": 6},
    "AVIF": {"speed": 6, "max_threads": 1},
}


@cache
def picture_levels() -> tuple[str, ...]:
    """Those of PICTURE_LEVELS that Pillow can code here: it may have been built without AVIF."""
    avif = bool(features.check("avif"))
    return tuple(level for level in PICTURE_LEVELS if avif or PICTURE_FORMATS.get(level, ("",))[0] != "AVIF")


def encode_picture(picture: Image.Image, level: str) -> bytes:
    """RGB pixels at one of `picture_levels()`. Other modes are converted to RGB first. Raises UsageError."""
    if level not in picture_levels():
        raise UsageError(
            f"'{level}' is no codec level of pictures.", advice=f"Known levels: {', '.join(picture_levels())}."
        )
    plain = Image.new("RGB", picture.size)  # carries no metadata
    plain.paste(picture.convert("RGB"))
    out = io.BytesIO()
    if level == LOSSLESS:
        plain.save(out, "WEBP", lossless=True, quality=_LOSSLESS_EFFORT, method=4)
        return out.getvalue()
    kind, quality, scale = PICTURE_FORMATS[level]
    if scale < 1:
        out.write(bytes((_SCALED,)) + varint(plain.width) + varint(plain.height))
        plain = plain.resize([max(1, round(side * scale)) for side in plain.size], Image.Resampling.LANCZOS)
    coded = io.BytesIO()
    plain.save(coded, kind, quality=quality, **_BEST[kind])
    return out.getvalue() + coded.getvalue()


def decode_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """The RGB picture in `data`: JPEG, WebP or AVIF, a single frame, at most `max_pixels` large. Raises ProtocolError."""
    if data[:1] != bytes((_SCALED,)):
        return _decoded(data, max_pixels)
    cursor = Cursor(memoryview(data)[1:])
    size = cursor.varint(max_pixels, "a picture's width"), cursor.varint(max_pixels, "a picture's height")
    if not 0 < size[0] * size[1] <= max_pixels:
        raise ProtocolError(
            f"A received picture has {size[0]} x {size[1]} pixels; between 1 and {max_pixels} are taken."
        )
    return _decoded(bytes(cursor.take(cursor.left)), max_pixels).resize(size, Image.Resampling.LANCZOS)


def _decoded(data: bytes, max_pixels: int) -> Image.Image:
    kind = _format_of(data)
    if kind is None:
        raise ProtocolError("A received picture is neither JPEG, WebP nor AVIF.")
    if kind == "AVIF" and not features.check("avif"):
        raise ProtocolError("A received picture is AVIF, which Pillow cannot read here.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit here is our own
            with Image.open(io.BytesIO(data), formats=(kind,)) as picture:
                return _pixels(picture, max_pixels)
    # What Pillow's plugins raise on malformed files.
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, struct.error) as error:
        raise ProtocolError("A received picture is malformed.") from error
    except (Image.DecompressionBombError, OverflowError, MemoryError, RuntimeError) as error:
        raise ProtocolError("A received picture is too large.") from error


def _format_of(data: bytes) -> str | None:
    if data.startswith(_JPEG):
        return "JPEG"
    if data[4:8] == _FTYP and data[8:12] == _AVIF:
        return "AVIF"
    return "WEBP" if data[:4] == _RIFF and data[8:12] == _WEBP else None


def _pixels(picture: Image.Image, max_pixels: int) -> Image.Image:
    width, height = picture.size
    if width * height > max_pixels:
        raise ProtocolError(f"A received picture has {width} x {height} pixels, above {max_pixels} in all.")
    if getattr(picture, "n_frames", 1) != 1:
        raise ProtocolError("A received picture has several frames.")
    return picture.convert("RGB")
