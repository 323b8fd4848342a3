"""The cut `image`: a picture, already resized to the model's input, to bytes and back.

The formats that are decoded are told by their first bytes, and by nothing else that a peer says; the picture's size is
read from its header and checked before any pixel is decoded. Metadata (EXIF, ICC, XMP) is not sent.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Final

from PIL import Image

from splitvlm.codec.levels import LOSSLESS, PICTURE_FORMATS, PICTURE_LEVELS
from splitvlm.errors import ProtocolError, UsageError

_JPEG: Final = b"\xff\xd8\xff"
_RIFF, _WEBP = b"RIFF", b"WEBP"
_LOSSLESS_EFFORT: Final = 50  # docs/codec.md: 100 saves below 0.1 % for twice the time


def encode_picture(picture: Image.Image, level: str) -> bytes:
    """RGB pixels at one of PICTURE_LEVELS. Other modes are converted to RGB first. Raises UsageError."""
    if level not in PICTURE_LEVELS:
        raise UsageError(
            f"'{level}' is no codec level of pictures.", advice=f"Known levels: {', '.join(PICTURE_LEVELS)}."
        )
    plain = Image.new("RGB", picture.size)  # carries no metadata
    plain.paste(picture.convert("RGB"))
    out = io.BytesIO()
    if level == LOSSLESS:
        plain.save(out, "WEBP", lossless=True, quality=_LOSSLESS_EFFORT, method=4)
        return out.getvalue()
    kind, quality = PICTURE_FORMATS[level]
    plain.save(out, kind, quality=quality, **({"optimize": True} if kind == "JPEG" else {"method": 4}))
    return out.getvalue()


def decode_picture(data: bytes, *, max_pixels: int) -> Image.Image:
    """The RGB picture in `data`: JPEG or WebP, a single frame, at most `max_pixels` large. Raises ProtocolError."""
    kind = _format_of(data)
    if kind is None:
        raise ProtocolError("A received picture is neither JPEG nor WebP.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit here is our own
            with Image.open(io.BytesIO(data), formats=(kind,)) as picture:
                return _decoded(picture, max_pixels)
    # What Pillow's JPEG and WebP plugins raise on malformed files.
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, struct.error) as error:
        raise ProtocolError("A received picture is malformed.") from error
    except (Image.DecompressionBombError, OverflowError, MemoryError) as error:
        raise ProtocolError("A received picture is too large.") from error


def _format_of(data: bytes) -> str | None:
    if data.startswith(_JPEG):
        return "JPEG"
    return "WEBP" if data[:4] == _RIFF and data[8:12] == _WEBP else None


def _decoded(picture: Image.Image, max_pixels: int) -> Image.Image:
    width, height = picture.size
    if width * height > max_pixels:
        raise ProtocolError(f"A received picture has {width} x {height} pixels, above {max_pixels} in all.")
    if getattr(picture, "n_frames", 1) != 1:
        raise ProtocolError("A received picture has several frames.")
    return picture.convert("RGB")
