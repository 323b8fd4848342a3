"""The cut `image`: exact where it says so, close enough elsewhere, and wary of what arrives."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageFilter, ImageStat

from splitvlm.codec import PICTURE_LEVELS, decode_picture, encode_picture
from splitvlm.codec.header import varint
from splitvlm.codec.levels import PICTURE_FORMATS
from splitvlm.codec.picture import inspect_coded_picture
from splitvlm.errors import ProtocolError, UsageError

PIXELS = 64 * 48


def photograph() -> Image.Image:
    """Smooth colours with some noise, the same every time."""
    noise = Image.frombytes("RGB", (64, 48), random.Random(8).randbytes(3 * PIXELS))
    gradient = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    return Image.blend(gradient, noise.filter(ImageFilter.GaussianBlur(2)), 0.4)


SCALED = [level for level, (*_, scale) in PICTURE_FORMATS.items() if scale < 1]
CODED = {level: encode_picture(photograph(), level) for level in PICTURE_LEVELS}


def test_lossless_keeps_every_pixel() -> None:
    assert decode_picture(CODED["lossless"], max_pixels=PIXELS).tobytes() == photograph().tobytes()


@pytest.mark.parametrize("level", PICTURE_LEVELS)
def test_a_picture_comes_back_alike(level: str) -> None:
    restored = decode_picture(CODED[level], max_pixels=PIXELS)
    assert restored.mode == "RGB"
    assert restored.size == (64, 48)
    assert max(ImageStat.Stat(ImageChops.difference(restored, photograph())).mean) < (
        12 if level.startswith("avif") or level in SCALED else 6
    )


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_lower_quality_is_smaller(kind: str) -> None:
    sizes = [len(CODED[f"{kind}{quality}"]) for quality in (90, 75, 50)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    picture = photograph().convert(mode)
    restored = decode_picture(encode_picture(picture, "lossless"), max_pixels=PIXELS)
    assert restored.tobytes() == picture.convert("RGB").tobytes()


def test_a_picture_given_as_an_object_becomes_rgb_as_a_file_does() -> None:
    deep = photograph().convert("L").convert("I;16").point(lambda value: value * 257)
    clear = photograph().copy()
    clear.putalpha(0)
    for picture, seen in (
        (deep, photograph().convert("L").convert("RGB")),
        (clear, Image.new("RGB", (64, 48), "white")),
    ):
        assert decode_picture(encode_picture(picture, "lossless"), max_pixels=PIXELS).tobytes() == seen.tobytes()


@pytest.mark.parametrize("size", [(70_000, 40), (40, 20_000), (16_384, 16)])
@pytest.mark.parametrize("level", ["lossless", "webp75", "webp50s", "avif35", "jpeg75"])
def test_a_picture_longer_than_a_format_codes_is_taken_by_every_level(size: tuple[int, int], level: str) -> None:
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    data = encode_picture(picture, level)
    restored = decode_picture(data, max_pixels=1 << 22)
    assert restored.size == inspect_coded_picture(data, max_pixels=1 << 22).size == size
    if level == "lossless":
        assert restored.tobytes() == picture.tobytes()
    assert max(ImageStat.Stat(ImageChops.difference(restored, picture)).mean) < 6


def test_metadata_is_not_sent() -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "a camera that knows where it is"
    photograph().save(out, "JPEG", exif=exif)
    with Image.open(out) as picture:
        assert all(b"camera" not in encode_picture(picture, level) for level in PICTURE_LEVELS)


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(UsageError, match="jpeg90"):
        encode_picture(photograph(), "png")


@pytest.mark.parametrize("level", PICTURE_LEVELS)
def test_size_is_checked_before_decoding(level: str) -> None:
    with pytest.raises(ProtocolError, match=r"64 x 48 pixels"):
        decode_picture(CODED[level], max_pixels=PIXELS - 1)


def test_a_scaled_picture_says_its_size_and_is_held_to_the_limit() -> None:
    huge = b"\1" + varint(1 << 15) + varint(1 << 15) + CODED["webp50s"][3:]
    empty = b"\1" + varint(0) + varint(48) + CODED["webp50s"][3:]
    for data in (huge, empty, b"\1", CODED["webp50s"][:3]):
        with pytest.raises(ProtocolError):
            decode_picture(data, max_pixels=1 << 24)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF"])
def test_other_formats_are_refused(kind: str) -> None:
    out = io.BytesIO()
    photograph().save(out, kind)
    with pytest.raises(ProtocolError, match="not one of JPEG, WEBP, AVIF, PNG"):
        decode_picture(out.getvalue(), max_pixels=PIXELS)


def test_animations_are_refused() -> None:
    out = io.BytesIO()
    photograph().save(out, "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    with pytest.raises(ProtocolError, match="several frames"):
        decode_picture(out.getvalue(), max_pixels=PIXELS)


@pytest.mark.parametrize("level", PICTURE_LEVELS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_never_surprises(level: str, data: st.DataObject) -> None:
    coded = bytearray(CODED[level][: data.draw(st.integers(0, len(CODED[level])))])
    for place in data.draw(st.lists(st.integers(0, max(0, len(coded) - 1)), max_size=3)):
        if coded:
            coded[place] ^= data.draw(st.integers(1, 255))
    try:
        picture = decode_picture(bytes(coded), max_pixels=PIXELS)
    except ProtocolError:
        return
    assert picture.size[0] * picture.size[1] <= PIXELS
