"""Pictures of every mode become RGB with the right values: deep greyscale, transparency, CMYK, one bit."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from splitvlm.model.pictures import inspect_picture, read_picture
from tests.picture_files import png_with, saved

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every value once
LOWEST, HIGHEST = 340, 341  # TIFF's SMinSampleValue and SMaxSampleValue
Array = np.ndarray[Any, Any]


def opened(data: bytes) -> Array:
    """The picture's values in one plane; all three are equal."""
    values = np.asarray(read_picture(data))
    assert (values[..., 0] == values[..., 1]).all()
    assert (values[..., 0] == values[..., 2]).all()
    return values[..., 0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (GREY.astype(np.uint16) * 257, "PNG"),
        (GREY.astype(np.uint16) * 257, "TIFF"),
        ((GREY.astype(np.uint16) * 257).astype(">u2"), "TIFF"),
        (GREY.astype(np.int32) * 257, "TIFF"),
        (GREY.astype(np.float32) / 255, "TIFF"),
    ],
    ids=["png-16", "tiff-16", "tiff-16-big-endian", "tiff-32", "tiff-float"],
)
def test_deep_greyscale_looks_like_the_same_picture_of_eight_bits(values: Array, kind: str) -> None:
    assert np.array_equal(opened(saved(Image.fromarray(values), kind)), GREY)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_sensors_bits_in_sixteen_are_scaled_by_the_sensors_depth(bits: int, kind: str) -> None:
    values = np.rint(GREY * ((2**bits - 1) / 255)).astype(np.uint16)
    assert abs(opened(saved(Image.fromarray(values), kind)).astype(int) - GREY).max() <= 1


def test_the_files_significant_bits_decide_where_it_states_them() -> None:
    dark = np.full((4, 4), 1000, np.uint16)  # would look like 10 bits
    dark[0, 0] = 0
    plain = saved(Image.fromarray(dark), "PNG")
    assert opened(plain).max() == round(1000 * 255 / 1023)
    assert opened(png_with(plain, b"sBIT", bytes([12]))).max() == round(1000 * 255 / 4095)


def test_the_files_own_range_decides_where_it_states_one() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in ((LOWEST, 0.0), (HIGHEST, 20_000.0)):
        tags[tag] = value
        tags.tagtype[tag] = 12
    values = np.array([[0, 5_000], [10_000, 20_000]], np.uint16)
    assert opened(saved(Image.fromarray(values), "TIFF", tiffinfo=tags)).tolist() == [[0, 64], [128, 255]]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-1000, 0], [1000, 3000]], np.int32),  # a tomography in Hounsfield units
        np.array([[31_768, 32_768], [33_768, 35_768]], np.uint16),  # the same with an offset
        np.array([[-1.0, 0.0], [1.0, 3.0]], np.float32),
        np.array([[200.0, 300.0], [400.0, 600.0]], np.float32),
        np.array([[0.2, 0.201], [0.202, 0.204]], np.float32),
    ],
    ids=["signed", "offset", "negative-float", "float-above-1", "narrow-float"],
)
def test_what_has_no_usual_range_or_uses_little_of_it_goes_from_lowest_to_highest(values: Array) -> None:
    assert opened(saved(Image.fromarray(values), "TIFF")).tolist() == [[0, 64], [128, 255]]


def test_values_that_are_no_number_are_black_and_decide_nothing() -> None:
    values = np.array([[np.nan, np.inf], [0.5, 1.0]], np.float32)
    assert opened(saved(Image.fromarray(values), "TIFF")).tolist() == [[0, 255], [128, 255]]
    assert opened(saved(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF")).max() == 0


def test_an_even_deep_picture_keeps_its_grey() -> None:
    assert opened(saved(Image.fromarray(np.full((3, 3), 32_896, np.uint16)), "PNG")).tolist() == [[128] * 3] * 3


def test_white_is_zero_where_a_deep_tiff_says_so() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    data = saved(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF", tiffinfo=tags)
    entry, negative = struct.pack("<HHIHH", 262, 3, 1, 1, 0), struct.pack("<HHIHH", 262, 3, 1, 0, 0)
    assert data.count(entry) == 1
    assert np.array_equal(opened(data.replace(entry, negative)), 255 - GREY)


def black_ink(mode: str) -> Image.Image:
    """Black everywhere, and the drawing in the transparency alone."""
    alpha = Image.fromarray(255 - GREY)
    ground = Image.new("L", alpha.size)
    return Image.merge(mode, [ground] * (len(mode) - 1) + [alpha])


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(mode: str, kind: str) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert np.array_equal(opened(saved(black_ink(mode), kind, **options)), GREY)


def test_what_lies_under_full_transparency_is_not_seen() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (16, 16, 4), np.uint8)
    noise[..., 3] = 0
    assert opened(saved(Image.fromarray(noise), "PNG")).min() == 255


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["index", "table"])
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_entries_of_a_palette_are_white(kind: str, transparency: int | bytes) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([9, 9, 9, 200, 10, 10])
    picture.putpixel((1, 0), 1)
    given = transparency if kind == "PNG" else 1
    assert opened(saved(picture, kind, transparency=given)).tolist() == [[9, 255]]


@pytest.mark.parametrize(
    ("picture", "colour", "shown"),
    [
        (Image.fromarray(np.array([[7, 8]], np.uint8)), struct.pack(">H", 7), [255, 8]),
        (Image.fromarray(np.array([[[7, 7, 7], [8, 8, 8]]], np.uint8)), struct.pack(">3H", 7, 7, 7), [255, 8]),
        (Image.fromarray(np.array([[257, 65_535]], np.uint16)), struct.pack(">H", 257), [255, 255]),
        (Image.fromarray(np.array([[0, 1]], np.uint8) * 255).convert("1"), struct.pack(">H", 0), [255, 255]),
    ],
    ids=["grey", "colour", "deep-grey", "one-bit"],
)
def test_a_transparent_colour_is_white(picture: Image.Image, colour: bytes, shown: list[int]) -> None:
    assert opened(png_with(saved(picture, "PNG"), b"tRNS", colour)).tolist() == [shown]


def test_opaque_pictures_keep_every_value() -> None:
    values = np.random.default_rng(4).integers(0, 255, (20, 30, 3), np.uint8)
    for kind in ("PNG", "BMP", "TIFF"):
        assert np.array_equal(np.asarray(read_picture(saved(Image.fromarray(values), kind))), values)
    assert np.array_equal(np.asarray(read_picture(saved(Image.fromarray(values), "WEBP", lossless=True))), values)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiffs_keep_every_value(compression: str) -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(opened(saved(deep, "TIFF", compression=compression)), GREY)


def test_cmyk_and_one_bit_keep_their_colours() -> None:
    red = read_picture(saved(Image.new("RGB", (8, 8), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.subtract(red.getpixel((4, 4)), (200, 30, 30))).max() <= 3
    assert opened(saved(Image.fromarray(GREY).point(lambda v: 255 * (v > 99)).convert("1"), "PNG"))[9, 9] == 255


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr"])
def test_other_colour_spaces_of_a_tiff_become_rgb(mode: str) -> None:
    colours = Image.new("RGB", (8, 8), (200, 30, 30))
    colour = (
        colours
        if mode != "LAB"
        else ImageCms.profileToProfile(
            colours, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    )
    stored = saved(colour if mode == "LAB" else colours.convert(mode), "TIFF")
    found = read_picture(stored).getpixel((4, 4))
    assert np.abs(np.subtract(found, (200, 30, 30))).max() <= 4


def test_a_header_names_the_mode_of_the_file() -> None:
    assert inspect_picture(saved(Image.fromarray(GREY.astype(np.uint16)), "PNG")).mode == "I;16"
