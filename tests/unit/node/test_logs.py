"""What a node logs: its own words at the level chosen, of libraries nothing but warnings, never what is in a picture."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest
from PIL import Image

from splitvlm.model.pictures import read_picture
from splitvlm.node import logs
from splitvlm.settings import Logging
from tests.picture_files import saved

PRIVATE = "51.4779 N, a patient's name"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What is logged at the level `debug`; the loggers are as before afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("splitvlm")
    kept = root.level, root.handlers[:], ours.level
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    logs.set_up(Logging(level="debug"))
    yield text
    root.handlers[:] = kept[1]
    root.setLevel(kept[0])
    ours.setLevel(kept[2])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_pictures_metadata_is_not_logged_even_by_the_library_that_reads_it(kind: str, log: io.StringIO) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, PRIVATE
    data = saved(Image.new("RGB", (20, 10)), kind, exif=exif)
    assert PRIVATE.encode() in data
    read_picture(data)
    with Image.open(io.BytesIO(data)) as picture:  # Pillow alone, as nothing of ours opens a picture
        picture.load()
        picture.getexif().get_ifd(0x8769)
    assert log.getvalue() == ""


@pytest.mark.parametrize(
    "library", ["PIL.TiffImagePlugin", "httpx", "urllib3.connectionpool", "grpc", "matplotlib", "asyncio"]
)
def test_libraries_log_warnings_only(library: str, log: io.StringIO) -> None:
    logging.getLogger(library).debug(PRIVATE)
    logging.getLogger(library).info(PRIVATE)
    assert log.getvalue() == ""
    logging.getLogger(library).warning("a warning")
    assert "a warning" in log.getvalue()


def test_our_own_words_are_logged_at_the_level_chosen(log: io.StringIO) -> None:
    logging.getLogger("splitvlm.edge").debug("ours")
    assert '"event": "ours"' in log.getvalue()
    logs.set_up(Logging(level="error"))
    logging.getLogger("splitvlm.edge").warning("not now")
    logging.getLogger("PIL").warning("nor this")
    assert "now" not in log.getvalue()
    assert "this" not in log.getvalue()
