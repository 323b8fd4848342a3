"""What is booked before decoding and opening is at least what they take: measured in a process of its own, by its peak."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splitvlm.codec.boundary import decoding_bytes
from splitvlm.codec.codec import Codec
from splitvlm.codec.levels import FEATURE_LEVELS
from splitvlm.codec.picture import decode_picture, encode_picture, inspect_coded_picture
from splitvlm.domain import IMAGE, Cut
from splitvlm.model.loading import load_cloud
from splitvlm.model.prompt import Prompt
from tests.forked import forked
from tests.samples import tiny_model
from tests.tiny_models import FAMILIES

TOKENS = Cut.parse("tokens")
NOISE_BYTES = 12 * 2**20  # of the allocator, and of threads' first buffers
ELEMENTS = 1 << 22
SIDES = (3000, 2000)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are reset by a file of Linux")


def peak_bytes(work: Callable[[], object]) -> int:
    """How far the process grows while the work runs."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _kib("VmRSS")
    work()
    return 1024 * (_kib("VmHWM") - before)


def _kib(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])


def boundaries() -> dict[str, dict[str, np.ndarray]]:
    """Of few bytes for their size, and of ordinary values."""
    random = np.random.default_rng(1).normal(size=(ELEMENTS // 64, 64)).astype(np.float32)
    return {
        "zeros": {"hidden": np.zeros((ELEMENTS // 64, 64), np.float32)},
        "ordinary": {"hidden": random},
        "half": {"hidden": random.astype(np.float16)},
        "ids": {"ids": np.zeros(ELEMENTS, np.int64)},
        "steps": {"ids": np.arange(ELEMENTS)},
    }


def decoding() -> list[tuple[str, int, int]]:
    """(what, booked, taken)"""
    codec, rows = Codec(), []
    for what, boundary in boundaries().items():
        for level in FEATURE_LEVELS if "hidden" in boundary else FEATURE_LEVELS[:1]:
            payload = codec.encode(TOKENS, boundary, level)
            booked = decoding_bytes(codec.outline(TOKENS, payload))
            rows.append((f"{what} at {level}", booked, peak_bytes(lambda data=payload: codec.decode(TOKENS, data))))  # type: ignore[misc]
    return rows


def opening(kind: str) -> list[tuple[str, int, int]]:
    part, rows = load_cloud(tiny_model(kind), [IMAGE]), []
    part.upper_from_prompt(Prompt.about(Image.new("RGB", (64, 64)), "How many?"), 1).first()
    for width, height in (SIDES, SIDES[::-1], (40, 40)):
        payload = encode_picture(Image.new("RGB", (width, height), (90, 20, 30)), "webp50")

        def opened(data: bytes = payload) -> Any:
            return part.upper_from_prompt(Prompt.about(decode_picture(data, max_pixels=1 << 26), "How many?"), 1)

        header = inspect_coded_picture(payload, max_pixels=1 << 26)
        booked = max(header.decoded_bytes, part.preparation_bytes(header.width, header.height))
        rows.append((f"{kind} {width} x {height}", booked, peak_bytes(opened)))
    return rows


@pytest.mark.parametrize("case", ["decoding", *FAMILIES])
def test_no_more_is_taken_than_was_booked(case: str) -> None:
    done = forked("tests.unit.codec.test_memory_bounds", "main", [case])
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) >= 3
    for what, booked, taken in rows:
        assert taken <= booked + NOISE_BYTES, what


def main() -> None:
    print(json.dumps(decoding() if sys.argv[1] == "decoding" else opening(sys.argv[1])))
