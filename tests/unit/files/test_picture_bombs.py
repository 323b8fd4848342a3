"""Small files that would cost much, and formats that nobody named, are refused before a decoder sees them.

What makes a file cheap is asserted, not how fast it is: that the costly call is not reached, or that what reaches it is small.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import time
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image, PngImagePlugin, features

from splitvlm.codec.picture import decode_picture
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.files.pictures import FORMATS, avif, gif, jpeg, png, tiff
from splitvlm.files.pictures.av1 import decoded_pixels
from splitvlm.files.pictures.layout import MAX_BLOCKS
from splitvlm.files.pictures.refusal import PictureRefused
from splitvlm.model.pictures import inspect_picture, read_picture
from tests.picture_files import png_with, saved

PICTURE = Image.linear_gradient("L").resize((64, 48)).convert("RGB")


@pytest.fixture
def no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Pillow's plugins nor another process are reached."""

    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("a decoder was reached")

    monkeypatch.setattr(Image, "open", reached)
    monkeypatch.setattr(subprocess, "Popen", reached)


def refusal(data: bytes) -> str:
    began_s = time.thread_time()
    with pytest.raises(UsageError) as caught:
        inspect_picture(data)
    assert time.thread_time() - began_s < 2
    return str(caught.value)


def tiff_of_tags(*tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF file of (tag, type, count, value or place) and no pixels."""
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory


def other_formats() -> list[tuple[str, bytes]]:
    """A file of each format that Pillow writes and we do not take."""
    Image.init()
    files = []
    for kind in sorted(Image.SAVE.keys() - {*FORMATS, "MPO", "DIB"}):
        for mode in ("RGB", "L", "1", "P"):
            try:
                files.append((kind, saved(PICTURE.convert(mode), kind)))
                break
            except Exception:  # noqa: BLE001  a plugin that does not write this mode, or needs more than a picture
                continue
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    return [*files, ("EPS by hand", eps), ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>")]


@pytest.mark.usefixtures("no_plugin")
def test_formats_that_are_not_named_reach_no_plugin_and_no_other_process() -> None:
    others = other_formats()
    assert {"EPS", "PDF", "JPEG2000", "PPM", "TGA", "ICO", "PCX", "EPS by hand"} <= {kind for kind, _ in others}
    for kind, data in others:
        assert "is not a picture" in refusal(data), kind


def test_a_plugins_error_outside_any_list_is_a_damaged_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (
        struct.error("x"),
        zlib.error("x"),
        ZeroDivisionError(),
        MemoryError(),
        AssertionError(),
        Exception("x"),
    ):

        def failing(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(Image.Image, "convert", failing)
        with pytest.raises(UsageError, match="the picture is damaged"):
            read_picture(saved(PICTURE, "PNG"))
        with pytest.raises(ProtocolError, match="A received picture is damaged"):
            decode_picture(saved(PICTURE, "JPEG"), max_pixels=1 << 20)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_compressed_text_and_profiles_of_a_png_are_not_inflated(kind: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def inflated(*_: Any) -> None:
        raise AssertionError("a chunk was inflated")

    monkeypatch.setattr(PngImagePlugin, "_safe_zlib_decompress", inflated)
    data = saved(PICTURE, "PNG")
    chunk = b"name\0\0" + zlib.compress(bytes(1 << 20))
    for _ in range(200):
        data = png_with(data, kind, chunk)
    assert read_picture(data).tobytes() == PICTURE.tobytes()
    assert len(png.walk(data).pixels) < 20_000


@pytest.mark.usefixtures("no_plugin")
def test_files_cut_into_countless_blocks_are_refused() -> None:
    plain = saved(PICTURE, "PNG")
    place = plain.index(b"IDAT") - 4
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    comments = b"\x21\xfe\x01x\0" * (MAX_BLOCKS + 1)
    animation = saved(PICTURE.quantize(16), "GIF")
    image_at = animation.index(b"\x2c\0\0\0\0")
    photo = saved(PICTURE, "JPEG")
    for data in (
        plain[:place] + empty * (MAX_BLOCKS + 1) + plain[place:],
        animation[:image_at] + comments + animation[image_at:],
        photo[:2] + b"\xff\xfe\0\x02" * (MAX_BLOCKS + 1) + photo[2:],
        saved(PICTURE, "WEBP") + (b"XXXX" + bytes(4)) * (MAX_BLOCKS + 1),
        tiff_of_tags((256, 3, 1, 1), (257, 4, 1, MAX_BLOCKS + 1), (273, 4, MAX_BLOCKS + 1, 8)) + bytes(5 * MAX_BLOCKS),
    ):
        assert f"more than {MAX_BLOCKS:,} blocks" in refusal(data)


def test_a_run_of_fill_bytes_costs_its_length() -> None:
    photo = saved(PICTURE, "JPEG")
    began_s = time.thread_time()
    assert inspect_picture(photo[:2] + b"\xff" * (1 << 22) + photo[2:]).width == 64
    with pytest.raises(UsageError):
        read_picture(photo[:2] + b"\xff" * (1 << 22) + b"\0" * (1 << 22))
    assert time.thread_time() - began_s < 5


def test_only_the_first_frame_of_a_gif_reaches_a_decoder() -> None:
    frames = [PICTURE.quantize(8).rotate(angle) for angle in range(1, 100)]
    data = saved(PICTURE.quantize(8), "GIF", save_all=True, append_images=frames)
    alone = gif.walk(data).pixels
    assert len(alone) < len(data) / 20
    assert read_picture(data).tobytes() == read_picture(saved(PICTURE.quantize(8), "GIF")).tobytes()


def test_a_jpegs_other_pictures_and_metadata_reach_no_decoder() -> None:
    several = saved(PICTURE, "MPO", save_all=True, append_images=[PICTURE.rotate(9)] * 9, comment=b"private words")
    alone = jpeg.walk(several).pixels
    assert alone.count(b"\xff\xd8\xff") == 1
    assert b"private" not in alone
    assert read_picture(several).tobytes() == read_picture(saved(PICTURE, "JPEG")).tobytes()


def test_the_tags_of_a_tiff_cost_nothing() -> None:
    """Sixty thousand tags that each name the whole file, among them the directories of EXIF: terabytes, if they were read."""
    tags = {700: bytes(1 << 18)}
    plain = saved(PICTURE, "TIFF", tiffinfo=tags)
    (start,) = struct.unpack_from("<I", plain, 4)
    (count,) = struct.unpack_from("<H", plain, start)
    entries = plain[start + 2 : start + 2 + 12 * count]
    foreign = b"".join(struct.pack("<HHII", 1000 + tag, 1, 1 << 18, 8) for tag in range(60_000))
    exif = struct.pack("<HHII", 0x8769, 4, 1, len(plain))
    directory = struct.pack("<H", count + 60_001) + entries + exif + foreign + bytes(4)
    data = plain[:4] + struct.pack("<I", len(plain)) + plain[8:] + directory
    tracemalloc.start()
    try:
        began_s = time.thread_time()
        assert read_picture(data).tobytes() == PICTURE.tobytes()
        assert time.thread_time() - began_s < 3
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert len(tiff.walk(data).pixels) < len(data) + 300


@pytest.mark.usefixtures("no_plugin")
def test_tiles_larger_than_their_picture_are_refused() -> None:
    tiles = (322, 4, 1, 1 << 20), (323, 4, 1, 1 << 20), (324, 4, 1, 8)
    assert "tiles are larger" in refusal(tiff_of_tags((256, 3, 1, 8), (257, 3, 1, 8), *tiles))


@pytest.mark.parametrize(
    ("kind", "value"), [(11, 0x7FC00000), (11, 0x7F800000), (8, 0xFFFF), (9, 0xFFFFFFFF), (2, 8), (0, 8)]
)
def test_a_tag_whose_value_is_no_count_is_not_there(kind: int, value: int) -> None:
    sizes = {256: (256, 3, 1, 8), 257: (257, 3, 1, 8), 258: (258, 3, 1, 8), 273: (273, 4, 1, 8)}

    def with_tag(tag: int) -> bytes:
        tags = sizes | {tag: (tag, kind, 1, value)}
        return tiff_of_tags(*(tags[key] for key in sorted(tags))) + bytes(64)

    assert "has no pixels" in refusal(with_tag(256))
    for tag in (259, 274, 322, 279):
        assert inspect_picture(with_tag(tag)).size == (8, 8)


@pytest.mark.usefixtures("no_plugin")
def test_strips_that_each_name_the_whole_file_are_refused() -> None:
    count = 1000
    places = struct.pack("<I", 8) * count
    lengths = struct.pack("<I", 1 << 16) * count
    sizes = (256, 3, 1, 8), (257, 3, 1, count), (259, 3, 1, 5), (266, 3, 1, 2)
    strips = (273, 4, count, 1 << 10), (278, 3, 1, 1), (279, 4, count, (1 << 10) + len(places))
    head = tiff_of_tags(*sizes, *strips).ljust(1 << 10, b"\0")
    assert "parts overlap" in refusal((head + places + lengths).ljust(1 << 16, b"\0"))


@pytest.mark.parametrize("compression", ["jpeg", "group4", "zstd", "lzma"])
@pytest.mark.usefixtures("no_plugin")
def test_a_tiffs_other_decoders_are_not_reached(compression: str) -> None:
    picture = PICTURE.convert("1") if compression == "group4" else PICTURE
    assert "not one of none, LZW, Deflate, PackBits" in refusal(saved(picture, "TIFF", compression=compression))


@pytest.mark.usefixtures("no_plugin")
def test_a_bmp_that_pillow_would_decode_in_python_is_refused() -> None:
    data = bytearray(saved(PICTURE.quantize(16), "BMP"))
    data[30:34] = struct.pack("<I", 1)  # run-length coded
    assert "compressed BMP" in refusal(bytes(data))


@pytest.mark.usefixtures("no_plugin")
def test_a_canvas_is_refused_before_it_is_reserved() -> None:
    animation = bytearray(saved(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(9)]))
    animation[24:30] = b"\xfe\x3f\0\xfe\x3f\0"
    assert "16383 x 16383 pixels" in refusal(bytes(animation))
    screen = bytearray(saved(PICTURE.quantize(8), "GIF"))
    screen[6:10] = b"\xff\xff\xff\xff"
    assert "65535 x 65535 pixels" in refusal(bytes(screen))


needs_avif = pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")


def avif_of_frames(number: int) -> bytes:
    """An AVIF whose frame stands there so often. The item is the last thing in the file."""
    data = saved(PICTURE, "AVIF")
    payload_at = data.index(b"mdat") + 4
    payload = data[payload_at:]
    longer = payload * number
    head = data[:payload_at].replace(
        struct.pack(">I", len(payload) + 8) + b"mdat", struct.pack(">I", len(longer) + 8) + b"mdat"
    )
    location = struct.pack(">II", payload_at, len(payload))
    assert head.count(location) == 1
    return head.replace(location, struct.pack(">II", payload_at, len(longer))) + longer


@needs_avif
@pytest.mark.usefixtures("no_plugin")
def test_an_avif_of_hidden_frames_is_refused() -> None:
    assert decoded_pixels(saved(PICTURE, "AVIF").partition(b"mdat")[2]) == (64 * 48, 64 * 48)
    assert "more frames than it shows" in refusal(avif_of_frames(1000))


@needs_avif
@pytest.mark.usefixtures("no_plugin")
def test_an_avif_whose_frames_are_larger_than_it_says_is_refused() -> None:
    data = saved(PICTURE, "AVIF")
    size = struct.pack(">II", 64, 48)
    assert data.count(b"ispe" + bytes(4) + size) == 1
    assert "frames are larger" in refusal(data.replace(size, struct.pack(">II", 32, 32)))


@needs_avif
@pytest.mark.usefixtures("no_plugin")
def test_a_sequence_of_avif_is_refused() -> None:
    assert "sequence" in refusal(saved(PICTURE, "AVIF", save_all=True, append_images=[PICTURE.rotate(9)]))


@needs_avif
def test_parts_of_an_avif_that_overlap_are_refused() -> None:
    contents = avif._Contents(kinds={1: b"av01"}, extents={1: [(False, 0, 0)] * 1000})
    with pytest.raises(PictureRefused, match="overlap"):
        list(avif._bitstreams(bytes(1000), contents))


@pytest.mark.parametrize("kind", FORMATS)
def test_half_a_file_is_damaged(kind: str) -> None:
    data = saved(PICTURE.quantize(16) if kind == "GIF" else PICTURE, kind)
    with pytest.raises(UsageError, match="is damaged and cannot be read"):
        read_picture(data[: len(data) * 3 // 4])


def test_a_progressive_jpeg_without_its_last_scans_is_damaged() -> None:
    data = saved(PICTURE, "JPEG", progressive=True)
    with pytest.raises(UsageError, match="is damaged and cannot be read"):
        read_picture(data[: data.rindex(b"\xff\xda")])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_anywhere_is_damaged_or_whole(kind: str) -> None:
    data = saved(PICTURE.quantize(16) if kind == "GIF" else PICTURE, kind)
    for length in range(4, len(data) - 2, max(1, len(data) // 60)):
        with contextlib.suppress(UsageError):
            assert read_picture(data[:length]).size == PICTURE.size  # what is missing was no pixel


@pytest.mark.parametrize("opener", [inspect_picture, read_picture])
def test_nothing_is_no_picture(opener: Callable[[bytes], Any]) -> None:
    with pytest.raises(UsageError, match="is not a picture"):
        opener(b"")
