"""What a picture file costs is known, and refused where it is too much, before its decoder runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, ImageFile

from splitvlm.codec.picture import decode_picture, inspect_coded_picture
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.files.pictures.layout import MAX_SCANS
from splitvlm.model.pictures import inspect_picture, read_picture
from tests.picture_files import jpeg_of_scans, saved

KINDS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
OPENERS: list[Callable[[bytes], Any]] = [
    inspect_picture,
    read_picture,
    lambda data: inspect_coded_picture(data, max_pixels=1 << 24),
    lambda data: decode_picture(data, max_pixels=1 << 24),
]


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("no_decoder")
def test_a_header_is_read_without_decoding(kind: str) -> None:
    header = inspect_picture(saved(Image.new("L", (70, 40)), kind))
    assert (header.format, header.width, header.height) == (kind, 70, 40)
    assert header.decoded_bytes >= 70 * 40 * 4


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.usefixtures("no_decoder")
def test_a_jpeg_of_a_thousand_scans_is_refused_by_its_markers(opener: Callable[[bytes], Any]) -> None:
    data = jpeg_of_scans(1000)
    assert len(data) < 100_000
    began_s = time.thread_time()
    with pytest.raises((UsageError, ProtocolError), match=f"more than {MAX_SCANS} scans"):
        opener(data)
    assert time.thread_time() - began_s < 0.5


def test_the_scans_of_ordinary_encoders_are_taken() -> None:
    assert read_picture(jpeg_of_scans(MAX_SCANS, edge_px=64)).getpixel((9, 9)) == (89, 120, 200)


def test_scans_are_held_to_fewer_where_a_picture_is_large() -> None:
    with pytest.raises(UsageError, match="64 scans of 6000 x 6000 pixels"):
        inspect_picture(jpeg_of_scans(MAX_SCANS, edge_px=6000))


def test_buffered_coefficients_are_counted() -> None:
    picture = Image.new("RGB", (2000, 1000))
    plain, progressive = (inspect_picture(saved(picture, "JPEG", progressive=each)) for each in (False, True))
    assert progressive.decoded_bytes - plain.decoded_bytes >= 2000 * 1000 * 6
