"""Opens the picture of a question: upright, RGB, of a size that a model can take. Anything else is a UsageError.

Taken are JPEG, PNG, WebP, AVIF, GIF, BMP and TIFF, of animations the first frame; `splitvlm.files.pictures` says what of them.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from splitvlm.errors import UsageError
from splitvlm.files import pictures
from splitvlm.files.pictures import PictureHeader, PictureRefused

MAX_PIXELS = 64_000_000
"""A 64-megapixel camera; decoded as RGB it takes 256 MB. Larger headers are refused before anything is decoded."""

_ADVICE = f"Use a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF file of at most {MAX_PIXELS:,} pixels."


def open_picture(path: Path | str) -> Image.Image:
    """Returns the picture at `path`, turned upright by its EXIF orientation, as RGB. Raises UsageError."""
    path = Path(path)
    try:
        return read_picture(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise UsageError(f"There is no picture at {path}.", advice="Check the path.") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder, not a picture.", advice="Name one picture file.") from error
    except PermissionError as error:
        raise UsageError(f"The picture {path} may not be read.", advice="Check the file's permissions.") from error
    except OSError as error:
        raise UsageError(f"The picture {path} cannot be read: {error.strerror}.", advice="Check the disk.") from error


def read_picture(data: bytes, name: str = "the picture") -> Image.Image:
    """Returns the picture in a file's bytes, turned upright, as RGB; `name` begins the sentence of an error.

    Raises UsageError.
    """
    try:
        return pictures.opened(data, max_pixels=MAX_PIXELS)
    except PictureRefused as refusal:
        raise UsageError(f"{name} {refusal}.", advice=_ADVICE) from refusal


def inspect_picture(data: bytes, name: str = "the picture") -> PictureHeader:
    """Returns format, size, mode and `decoded_bytes` of what `read_picture` would open; no pixel is decoded.

    Raises UsageError.
    """
    try:
        return pictures.inspect(data, max_pixels=MAX_PIXELS)
    except PictureRefused as refusal:
        raise UsageError(f"{name} {refusal}.", advice=_ADVICE) from refusal
