"""What each codec level costs and loses, on synthetic features and pictures. The last line is one JSON object.

    python benchmarks/codec_levels.py [--repeats N] [--choices]

Data, seeded:
  tokens  64 x 576, the shape of SmolVLM-256M's visual tokens of one tile: Gaussian, log-normal channel scales, channel means
  hidden  100 x 576, like a language model's hidden states: channels 300 and 120 times larger, a first token 200 times larger
  step    1 x 576, one decoded token of `hidden` (cut lm:k)
  picture 512 x 512, drawn: gradients, discs, sensor noise

Formulas: bits = 8 * coded bytes / values. error = sqrt(sum (x - x')^2 / sum x^2) over ordinary channels and tokens only (not
those that the data makes large), so that large ones cannot hide the loss of the rest; worst = the same of the worst ordinary
channel. Times are medians of N runs after a warm-up, one thread, this process. PSNR of pictures is over RGB.

Unfairness: Gaussian values are incompressible beyond their entropy, so real features come out smaller; a relative error says
nothing of answers, which are measured elsewhere (`splitvlm evaluate`). `--choices` also measures what the constants were
chosen by: zstandard's level, the lengths of groups and the outlier rule. It patches them in this process only.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image, ImageChops, ImageDraw, ImageStat

from splitvlm.codec import (
    FEATURE_LEVELS,
    PICTURE_LEVELS,
    CodecLimits,
    blocks,
    decode,
    decode_picture,
    encode,
    encode_picture,
    lossy,
    outliers,
)
from splitvlm.model.boundary import to_arrays, to_tensors
from splitvlm.model.threads import use_threads

Row = dict[str, Any]
LARGE = (7, 99)  # the large channels of `hidden`


def features() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Returns by name the tensor, and the mask of its ordinary values."""
    g = torch.Generator().manual_seed(0)
    scale, mean = torch.exp(0.7 * torch.randn(576, generator=g)), 0.5 * torch.randn(576, generator=g)
    tokens = torch.randn(64, 576, generator=g) * scale + mean
    hidden = torch.randn(100, 576, generator=g) * torch.exp(0.3 * torch.randn(576, generator=g))
    hidden[:, LARGE[0]] *= 300
    hidden[:, LARGE[1]] *= 120
    hidden[0] *= 200
    ordinary = torch.ones_like(hidden, dtype=torch.bool)
    ordinary[0] = False
    ordinary[:, LARGE] = False
    return {
        "tokens": (tokens, torch.ones_like(tokens, dtype=torch.bool)),
        "hidden": (hidden, ordinary),
        "step": (hidden[5:6], ordinary[5:6]),
    }


def picture() -> Image.Image:
    g = torch.Generator().manual_seed(1)
    noise = Image.frombytes("RGB", (512, 512), bytes(torch.randint(0, 256, (512 * 512 * 3,), generator=g).tolist()))
    base = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * k).resize((512, 512)) for k in range(3)])
    draw = ImageDraw.Draw(base)
    for _ in range(40):
        x, y, r = (int(v) for v in torch.randint(0, 512, (3,), generator=g))
        colour = tuple(int(v) for v in torch.randint(0, 256, (3,), generator=g))
        draw.ellipse((x, y, x + r // 5 + 8, y + r // 5 + 8), fill=colour)
    return Image.blend(base, noise, 0.06)


def median_ms(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def measure_features(name: str, x: torch.Tensor, ordinary: torch.Tensor, level: str, repeats: int) -> Row:
    boundary = to_arrays({"hidden": x})
    data = encode(boundary, level)
    restored = to_tensors(decode(data, limits=CodecLimits()))["hidden"]
    lost, all_ = ((restored - x).square() * ordinary).double(), (x.square() * ordinary).double()
    kept = all_.sum(0) > 0
    return {
        "data": name,
        "level": level,
        "bytes": len(data),
        "bits": round(8 * len(data) / x.numel(), 2),
        "error": round(math.sqrt(lost.sum() / all_.sum()), 5),
        "worst": round(float((lost.sum(0)[kept] / all_.sum(0)[kept]).max().sqrt()), 4) if len(x) > 1 else None,
        "encode_ms": round(median_ms(lambda: encode(boundary, level), repeats), 2),
        "decode_ms": round(median_ms(lambda: decode(data, limits=CodecLimits()), repeats), 2),
    }


def measure_picture(image: Image.Image, level: str, repeats: int) -> Row:
    data = encode_picture(image, level)
    restored = decode_picture(data, max_pixels=1 << 20)
    mse = sum(v * v for v in ImageStat.Stat(ImageChops.difference(image, restored)).rms) / 3
    return {
        "data": "picture",
        "level": level,
        "bytes": len(data),
        "psnr_db": round(10 * math.log10(255**2 / mse), 1) if mse else None,
        "encode_ms": round(median_ms(lambda: encode_picture(image, level), max(2, repeats // 5)), 2),
        "decode_ms": round(median_ms(lambda: decode_picture(data, max_pixels=1 << 20), max(2, repeats // 5)), 2),
    }


def choices(repeats: int) -> Iterable[Row]:
    """Prints the figures at int4 (and lossless, for zstandard) under other constants."""
    sets = features()
    for zstd_level in (1, 3, 9, 19):
        blocks.ZSTD_LEVEL = zstd_level  # type: ignore[misc]
        blocks._coders = blocks._Coders()
        for name, level in (("tokens", "lossless"), ("tokens", "int4"), ("hidden", "int2")):
            yield {"choice": f"zstd {zstd_level}", **measure_features(name, *sets[name], level, repeats)}
    blocks.ZSTD_LEVEL = 1  # type: ignore[misc]
    blocks._coders = blocks._Coders()
    for length in (16, 32, 64, 128, 256):
        with patch.object(lossy, "TOKEN_GROUP", length):
            yield {"choice": f"token group {length}", **measure_features("step", *sets["step"], "int4", repeats)}
        with patch.object(lossy, "CHANNEL_GROUP", length):
            yield {"choice": f"channel group {length}", **measure_features("hidden", *sets["hidden"], "int4", repeats)}
    for ratio in (4.0, 8.0, 12.0, 24.0, 1e9):
        with patch.object(outliers, "OUTLIER_RATIO", ratio):
            for name in sets:
                yield {"choice": f"outlier ratio {ratio:g}", **measure_features(name, *sets[name], "int4", repeats)}


def show(row: Row) -> None:
    print("  ".join(f"{key} {value}" for key, value in row.items() if value is not None), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--choices", action="store_true", help="also measure what the constants were chosen by")
    arguments = parser.parse_args()
    use_threads(1)
    rows: list[Row] = []
    for name, (x, ordinary) in features().items():
        for level in FEATURE_LEVELS:
            rows.append(measure_features(name, x, ordinary, level, arguments.repeats))
            show(rows[-1])
    image = picture()
    for level in PICTURE_LEVELS:
        rows.append(measure_picture(image, level, arguments.repeats))
        show(rows[-1])
    for row in choices(arguments.repeats) if arguments.choices else ():
        rows.append(row)
        show(row)
    print(json.dumps({"benchmark": "codec_levels", "repeats": arguments.repeats, "rows": rows}))


if __name__ == "__main__":
    main()
