"""Pictures are turned upright by the orientation tag alone, however broken the rest of their EXIF is."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from splitvlm.model.pictures import read_picture
from tests.picture_files import exif_block, jpeg_with_exif, png_with, saved

SHORT, ASCII, RATIONAL, SIGNED_RATIONAL, DOUBLE, LONG = 3, 2, 5, 10, 12, 4
ORIENTATION = 0x0112


def corners() -> Image.Image:
    """Four colours in the corners of an oblong."""
    picture = Image.new("RGB", (48, 32))
    for box, colour in (
        ((0, 0, 24, 16), "red"),
        ((24, 0, 48, 16), "lime"),
        ((0, 16, 24, 32), "blue"),
        ((24, 16, 48, 32), "white"),
    ):
        picture.paste(colour, box)
    return picture


def short_entry(orientation: int) -> tuple[int, int, int, bytes]:
    return ORIENTATION, SHORT, 1, struct.pack("<H", orientation)


def stored(kind: str, orientation: int) -> bytes:
    exif = exif_block([short_entry(orientation)])
    match kind:
        case "JPEG":
            return jpeg_with_exif(corners(), exif)
        case "PNG":
            return png_with(saved(corners(), "PNG"), b"eXIf", exif)
        case "TIFF":
            return saved(corners(), "TIFF", tiffinfo={ORIENTATION: orientation})
    return saved(corners(), kind, exif=b"Exif\0\0" + exif, quality=95)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_all_orientations_are_turned_upright(kind: str, orientation: int) -> None:
    tagged = corners()
    tagged.getexif()[ORIENTATION] = orientation
    upright = ImageOps.exif_transpose(tagged)
    found = read_picture(stored(kind, orientation))
    assert found.size == upright.size
    assert np.abs(np.subtract(found, upright, dtype=int)).mean() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize(
    "entry",
    [
        (0x011A, SIGNED_RATIONAL, 1, struct.pack("<ii", -1, 0)),
        (0x011A, RATIONAL, 1, struct.pack("<II", 1, 0)),
        (0x0100, ASCII, 4, b"abc\0"),
        (0x0101, 9, 1, struct.pack("<i", -5)),
        (0x8769, LONG, 1, struct.pack("<I", 8)),
        (0x8825, LONG, 1, struct.pack("<I", 999_999)),
        (0x0111, LONG, 1, struct.pack("<I", 10**9)),
        (0x011A, 16, 1, bytes(8)),
    ],
    ids=["signed-rational", "divided-by-0", "width-text", "height-negative", "loop", "far", "strip", "type-16"],
)
def test_exif_that_cannot_be_written_back_is_no_fault(entry: tuple[int, int, int, bytes], kind: str) -> None:
    exif = exif_block([short_entry(6), entry])
    match kind:
        case "JPEG":
            data = jpeg_with_exif(corners(), exif)
        case "PNG":
            data = png_with(saved(corners(), "PNG"), b"eXIf", exif)
        case "WEBP":
            data = saved(corners(), kind, exif=exif)
        case _:  # Pillow would write such a block no more than read it: it is put over one that is as long
            maker = (0x010F, ASCII, 100, b"x" * 99 + b"\0")
            plain = saved(corners(), kind, exif=exif_block([maker, short_entry(6)]))
            place = plain.rindex(b"II*\0")
            data = plain[:place] + exif.ljust(100, b"\0") + plain[place + 100 :]
            assert len(data) == len(plain)
    assert read_picture(data).size == (32, 48)


@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (exif_block([(ORIENTATION, ASCII, 2, b"6\0")]), False),
        (exif_block([(ORIENTATION, SHORT, 2, struct.pack("<HH", 6, 6))]), True),
        (exif_block([(ORIENTATION, DOUBLE, 1, struct.pack("<d", 6.0))]), True),
        (exif_block([short_entry(9)]), False),
        (b"Exif\0\0" + exif_block([short_entry(6)]), True),
        (b"", False),
        (b"II", False),
        (b"II*\0\xff\xff\xff\xff", False),
    ],
    ids=["text", "twice", "double", "unknown", "prefix-twice", "empty", "short", "far"],
)
def test_what_cameras_write_as_orientation(exif: bytes, *, turned: bool) -> None:
    assert (read_picture(jpeg_with_exif(corners(), exif)).size == (32, 48)) is turned
