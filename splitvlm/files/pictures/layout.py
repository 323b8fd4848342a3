"""A layout is what a walk over a file's structure finds. No walk decodes a pixel, none takes time beyond the file's length."""

from __future__ import annotations

from dataclasses import dataclass

from splitvlm.files.pictures.refusal import PictureRefused

MAX_SCANS = 64
"""Encoders write about 10 scans; each scan costs a pass over the whole picture, however few bytes it has."""

MAX_BLOCKS = 1 << 16
"""Segments or chunks of a file. A picture of 64 million pixels in chunks of 8 KiB has fewer."""


@dataclass(frozen=True)
class Samples:
    """Holds what a file says of its samples, for greyscale deeper than 8 bits."""

    bits: int = 8  # as stored
    significant_bits: int = 8
    lowest: float | None = None  # the value of black, where the file states it
    highest: float | None = None
    white_is_zero: bool = False
    unsigned: bool = True


ORDINARY = Samples()


@dataclass(frozen=True)
class PictureLayout:
    """Holds what a file's structure says. `pixels` is a file of the same format with what a decoder needs, and nothing else."""

    pixels: bytes
    width: int
    height: int
    orientation: int = 1  # EXIF's 1..8; 1 is upright
    scans: int = 1  # passes over the whole picture that its decoder makes
    buffered_bytes: int = 0  # of the decoder's own, at most, beside what any file of the format takes
    samples: Samples = ORDINARY


def within(data: bytes, start: int, length: int) -> bytes:
    """Returns `length` bytes of the file from `start` on. Raises PictureRefused where the file ends before them."""
    if start + length > len(data):
        raise truncated()
    return data[start : start + length]


def truncated() -> PictureRefused:
    """Returns the error for a file that ends before what its header promises."""
    return PictureRefused("is damaged and cannot be read as a picture: the file ends too early")


def too_many_blocks() -> PictureRefused:
    """Returns the error for a file that is cut into more than MAX_BLOCKS blocks."""
    return PictureRefused(f"is not taken: it is cut into more than {MAX_BLOCKS:,} blocks")
