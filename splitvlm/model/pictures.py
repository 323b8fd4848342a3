"""Opening a picture file: upright, RGB, of a size that a model can take. Anything else is a UsageError."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

from splitvlm.errors import UsageError

MAX_PIXELS = 64_000_000
"""A 64-megapixel camera; decoded as RGB it takes 192 MB. Larger headers are refused before anything is decoded."""


def open_picture(path: Path | str) -> Image.Image:
    """The picture at `path`, turned upright by its EXIF orientation, as RGB. Raises UsageError."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file, str(path))
    except FileNotFoundError as error:
        raise UsageError(f"There is no picture at {path}.", advice="Check the path.") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder, not a picture.", advice="Name one picture file.") from error
    except PermissionError as error:
        raise UsageError(f"The picture {path} may not be read.", advice="Check the file's permissions.") from error


def read_picture(data: bytes, name: str = "the picture") -> Image.Image:
    """The same from bytes. Raises UsageError."""
    return _read(io.BytesIO(data), name)


def _read(file: IO[bytes], name: str) -> Image.Image:
    advice = "Use a JPEG, PNG or WebP file."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit below is lower
            picture = Image.open(file)
            if picture.width * picture.height > MAX_PIXELS:
                raise _too_large(name, f"it has {picture.width} x {picture.height} pixels")
            upright = ImageOps.exif_transpose(picture)
            return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise UsageError(f"{name} is not a picture.", advice=advice) from error
    except Image.DecompressionBombError as error:
        raise _too_large(name, "it has far too many pixels") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's words for a truncated or broken file
        raise UsageError(f"{name} is damaged and cannot be read as a picture.", advice=advice) from error


def _too_large(name: str, why: str) -> UsageError:
    return UsageError(f"{name} is too large: {why}.", advice=f"At most {MAX_PIXELS:,} pixels are taken.")
