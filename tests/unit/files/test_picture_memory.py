"""The memory that opening a picture takes at its peak stays below what its header says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.picture_files import saved

PIXELS = 1400, 1000
CLEAR_REFS = Path("/proc/self/clear_refs")


def noise(channels: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(channels).integers(0, 255, (*PIXELS, channels), np.uint8))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


FILES: dict[str, Callable[[], bytes]] = {
    "progressive.jpg": lambda: saved(noise(3), "JPEG", progressive=True, quality=60, subsampling=0, exif=turned()),
    "alpha.png": lambda: saved(noise(4), "PNG", compress_level=1, exif=turned()),
    "deep.png": lambda: saved(Image.fromarray(np.asarray(noise(3))[..., 0].astype(np.uint16) * 257), "PNG"),
    "lossy.webp": lambda: saved(noise(3), "WEBP", method=0),
    "lossless.webp": lambda: saved(noise(4), "WEBP", lossless=True, quality=0, method=0, exif=turned()),
    "alpha.avif": lambda: saved(noise(4), "AVIF", speed=10, subsampling="4:4:4", exif=turned()),
    "palette.gif": lambda: saved(noise(3).quantize(64, Image.Quantize.FASTOCTREE), "GIF", transparency=3),
    "float.tif": lambda: saved(
        Image.fromarray(np.asarray(noise(4)).view(np.float32)[..., 0]), "TIFF", compression="tiff_lzw"
    ),
}


@pytest.mark.skipif(not os.access(CLEAR_REFS, os.W_OK), reason="the kernel does not reset its high-water mark here")
@pytest.mark.parametrize("name", FILES)
def test_the_peak_stays_below_the_headers_bound(name: str, tmp_path: Path) -> None:
    small, file = tmp_path / "small", tmp_path / name
    file.write_bytes(FILES[name]())
    kind = Image.open(file).format or ""
    small.write_bytes(saved(Image.new("RGB", (8, 8)), kind))
    program = [sys.executable, "-m", "tests.opening_peak", str(small), str(file)]
    printed = subprocess.run(program, check=True, capture_output=True, text=True).stdout
    _, bound_bytes, peak_bytes = json.loads(printed)
    assert PIXELS[0] * PIXELS[1] * 4 < peak_bytes <= bound_bytes
