"""Tells by a picture file's header what it is and whether it may be opened, before any pixel is decoded.

`decoded_bytes` is an upper bound of the memory that opening takes at its peak, above what the file's own bytes took before:
the decoder's buffers, the decoded picture, and the copies on the way to an upright RGB picture.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from PIL import Image, features

from splitvlm.files.pictures import avif, bmp, gif, jpeg, png, tiff, webp
from splitvlm.files.pictures.exif import orientation_of
from splitvlm.files.pictures.layout import PictureLayout
from splitvlm.files.pictures.refusal import PictureRefused

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
MAX_SCANNED_PIXELS = 1 << 30
"""Scans times pixels: 16 scans of a picture of 64 million pixels."""

_WALKS: dict[str, Callable[[bytes], PictureLayout]] = {
    "JPEG": jpeg.walk, "PNG": png.walk, "WEBP": webp.walk, "GIF": gif.walk, "BMP": bmp.walk,
    "TIFF": tiff.walk,
    "AVIF": avif.walk,
}  # fmt: skip
_FIXED_BYTES = 4 << 20
_AV1_THREAD_BYTES = 1 << 20
_TO_RGB_BYTES = 17
"""A pixel, at most: as decoded 4, with its alpha 4 and 1, on white 4, turned 4."""
_DECODER_BYTES = {"JPEG": 0, "PNG": 0, "GIF": 1, "BMP": 0, "TIFF": 8, "WEBP": 18, "AVIF": 32}
"""A pixel, at most. TIFF: a strip; WebP: two canvases, its own pixels, planes of alpha, the frame; AVIF: four frames of 16 bits
and the result."""


@dataclass(frozen=True)
class PictureHeader:
    """Holds what a picture's header says, and a bound on the memory that decoding takes."""

    format: str  # Pillow's name: JPEG, PNG, WEBP, AVIF, GIF, BMP or TIFF
    width: int  # as stored: before the orientation is applied
    height: int
    mode: str  # Pillow's name
    decoded_bytes: int

    @property
    def size(self) -> tuple[int, int]:
        """Returns width and height in pixels."""
        return self.width, self.height


def inspect(
    data: bytes, *, max_pixels: int, formats: Collection[str] = FORMATS, animated: bool = True
) -> PictureHeader:
    """Returns the header of the picture in `data`. Raises PictureRefused where it would not be opened.

    Of animations the first frame counts; without `animated` they are refused.
    """
    return lazily_opened(data, max_pixels, formats, animated)[0]


def lazily_opened(
    data: bytes, max_pixels: int, formats: Collection[str], animated: bool
) -> tuple[PictureHeader, Image.Image, PictureLayout]:
    """Returns the header, Pillow's picture, of which no pixel is decoded yet, and the layout. Raises PictureRefused."""
    kind = format_of(data)
    if kind is None or kind not in formats:
        raise PictureRefused("is not a picture" if kind is None else f"is {kind}, not one of {', '.join(formats)}")
    if kind == "AVIF" and not features.check("avif"):
        raise PictureRefused("is AVIF, which Pillow cannot read here")
    layout = _WALKS[kind](data)
    _check(layout, max_pixels)
    try:
        picture = Image.open(io.BytesIO(layout.pixels), formats=(kind,))
    except Exception as error:  # whatever a plugin raises on a file that is not as it should be
        raise PictureRefused("is damaged and cannot be read as a picture") from error
    _check(replace(layout, width=picture.width, height=picture.height), max_pixels)
    if not animated and getattr(picture, "n_frames", 1) != 1:
        raise PictureRefused("is not taken: it has several frames")
    if kind == "AVIF":
        layout = replace(layout, orientation=orientation_of(picture.info.get("exif", b"")))
    own_bytes = _decoded_bytes(kind, picture, layout, len(data))
    return PictureHeader(kind, *picture.size, picture.mode, own_bytes), picture, layout


def format_of(data: bytes) -> str | None:
    """Returns the format by the file's first bytes, or None where it is none of FORMATS."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "AVIF"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:2] == b"BM":
        return "BMP"
    return "TIFF" if data[:4] in (b"II*\0", b"MM\0*") else None


def _check(layout: PictureLayout, max_pixels: int) -> None:
    pixels = layout.width * layout.height
    if not pixels:
        raise PictureRefused("is damaged and cannot be read as a picture: it has no pixels")
    if pixels > max_pixels:
        raise PictureRefused(f"is too large: it has {layout.width} x {layout.height} pixels")
    if layout.scans * pixels > MAX_SCANNED_PIXELS:
        raise PictureRefused(f"is not taken: {layout.scans} scans of {layout.width} x {layout.height} pixels")


def _decoded_bytes(kind: str, picture: Image.Image, layout: PictureLayout, file_bytes: int) -> int:
    pixels = picture.width * picture.height
    threads_bytes = _AV1_THREAD_BYTES * (os.cpu_count() or 1) if kind == "AVIF" else 0
    own_bytes = _FIXED_BYTES + threads_bytes + layout.buffered_bytes
    return own_bytes + 4 * file_bytes + pixels * (_TO_RGB_BYTES + _DECODER_BYTES[kind])
