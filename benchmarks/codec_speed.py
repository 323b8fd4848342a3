"""Seconds and memory of the calibrated levels, in one thread. The last line is JSON.

    python benchmarks/codec_speed.py [--repeats N]

Data: made up, 64 and 1,088 tokens of 576 channels whose variances fall as a power of their number (1.6), which is about how
a SmolVLM's visual tokens fall; densities learned from 40 such tensors in a fifth of calibration's steps: that changes
bytes, not times.
Formulas. encode_ms, decode_ms: medians over the repeats of `Codec.encode` and `decode` of a whole boundary, of `lossless` too,
which is the baseline. ratio: of both against lossless. extra_memory: peak of tracemalloc during an encode or a decode, over
the tensor's own bytes; numpy and torch allocate there too, the coder's own memory does not show.
Unfairness: real features are more alike within a picture; times depend on bytes, bytes on the data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from splitvlm.calibration.entropy_model_training import STEPS
from splitvlm.calibration.level_training import learn
from splitvlm.codec.codec import Codec
from splitvlm.codec.dtypes import Arrays
from splitvlm.codec.klt import Basis, transform_of
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.prompt import Template
from splitvlm.domain import TOKENS
from splitvlm.model.threads import use_threads

CHANNELS = 576
SIZES = {"64 x 576": (64, 8), "1088 x 576": (1088, 32)}
PICTURES = 40
LEVELS = ("klt1", "klt3", "klt7")
FALLS = 1.6


def features(num_tokens: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    random = np.random.default_rng(seed)
    spread = np.arange(1, CHANNELS + 1) ** (-FALLS / 2)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS)))[0]
    x_TC: np.ndarray = ((random.normal(size=(num_tokens, CHANNELS)) * spread) @ turned + 1.0).astype(np.float32)  # type: ignore[type-arg]
    return x_TC


def codec_of(num_tokens: int, stride: int) -> Codec:
    seen = [features(num_tokens, seed) for seed in range(PICTURES)]
    transform = transform_of(np.concatenate(seen))
    levels = {level: learn(seen, transform, level, stride, steps=STEPS // 5, least_gain=-1.0) for level in LEVELS}
    template = Template(tuple(range(num_tokens)), (7, 8, 9), 49_280)
    return Codec({TOKENS: Basis(transform, levels, (num_tokens,), template)}, "made up")


def median_ms(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - started_s))
    return statistics.median(times)


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def measured(codec: Codec, boundary: Arrays, level: str, repeats: int) -> dict[str, float]:
    data = codec.encode(TOKENS, boundary, level)

    def encode() -> object:
        return codec.encode(TOKENS, boundary, level)

    def decode() -> object:
        return codec.decode(TOKENS, data)

    return {
        "bytes": len(data),
        "encode_ms": round(median_ms(encode, repeats), 2),
        "decode_ms": round(median_ms(decode, repeats), 2),
        "extra_memory": round(max(peak(encode), peak(decode)) / boundary["hidden"].nbytes, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    use_threads(1)
    assert set(LEVELS) <= set(KLT_STEPS)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for size, (num_tokens, stride) in SIZES.items():
        codec = codec_of(num_tokens, stride)
        x_TC = features(num_tokens, 999)
        boundary = {"hidden": x_TC, "ids": np.array([*range(num_tokens), *range(100, 115), 7, 8, 9])}
        rows = {}
        for level in ("lossless", *LEVELS):
            rows[level] = measured(codec, boundary, level, options.repeats)
            whole_ms = rows[level]["encode_ms"] + rows[level]["decode_ms"]
            base_ms = rows["lossless"]["encode_ms"] + rows["lossless"]["decode_ms"]
            rows[level]["ratio"] = round(whole_ms / base_ms, 2)
            print(f"{size:12} {level:9} {rows[level]}")
        result[size] = rows
    print(json.dumps({"benchmark": "codec_speed", "sizes": result}))


if __name__ == "__main__":
    main()
