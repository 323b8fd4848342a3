"""Fewer visual tokens before the codec: does it pay? `python benchmarks/codec_fewer_tokens.py [--questions N]`

The embedded model at the cut `tokens`, as in codec.py (same questions, same bytes: sealed messages, prompt and all). Before a
calibrated level codes them, a share of the 64 tokens of each picture is

    least    put at the calibration's mean: those with the least energy in the metric of the transform
    pairs    replaced, both, by the mean of the two: those neighbours in a row that are most alike
    random   put at the mean: any

so that the coder's prediction from neighbours makes them cheap. `plain` changes nothing. The last line is JSON.
Unfairness: the receiver is not told which tokens were dropped, and cannot mask them; telling costs up to 64 bits more.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from codec import SEED, UndividedModel
from codec_coders import Array, Coded, begin_bytes, own
from codec_scores import Score, lost

from splitvlm.codec.codec import Codec
from splitvlm.codec.klt import Transform
from splitvlm.domain import TOKENS
from splitvlm.scenes.questions import HELD_OUT_SEEDS, QUESTIONS_A_PICTURE, TRAINED, ask, draw

LEVELS, SHARES = ("klt3", "klt4", "klt5"), (0.15, 0.3, 0.5)
PLAIN = ("klt2", "klt3", "klt4", "klt5", "klt6", "klt7")
CHUNK, ROW = 12, 8  # pictures a forward pass; tokens in a row
Change = Callable[[Array, int], Array]


def least(y_TC: Array, share: float, seed: int) -> Array:
    energy_T = np.square(y_TC).sum(axis=1)
    return _put_at_mean(y_TC, np.argsort(energy_T)[: round(share * len(y_TC))])


def random(y_TC: Array, share: float, seed: int) -> Array:
    return _put_at_mean(y_TC, np.random.default_rng(seed).permutation(len(y_TC))[: round(share * len(y_TC))])


def pairs(y_TC: Array, share: float, seed: int) -> Array:
    changed = y_TC.reshape(-1, ROW // 2, 2, y_TC.shape[1]).reshape(-1, 2, y_TC.shape[1]).copy()
    apart_P = np.square(changed[:, 0] - changed[:, 1]).sum(axis=1)
    alike = np.argsort(apart_P)[: round(share * len(changed))]
    changed[alike] = changed[alike].mean(axis=1, keepdims=True)
    return changed.reshape(y_TC.shape)


def _put_at_mean(y_TC: Array, rows: npt.NDArray[np.intp]) -> Array:
    changed = y_TC.copy()
    changed[rows] = 0
    return changed


def coded(x_TC: Array, seed: int, codec: Codec, transform: Transform, level: str, change: Change) -> Coded:
    y_TC = change((x_TC - transform.mean) @ transform.analysis, seed)
    return own((y_TC @ transform.synthesis + transform.mean).astype(np.float32), codec, TOKENS, level)


def _plain(x_TC: Array, _seed: int, codec: Codec, level: str) -> Coded:
    return own(x_TC, codec, TOKENS, level)


def settings(codec: Codec) -> dict[str, Callable[[Array, int], Coded]]:
    transform = codec.basis(TOKENS).transform
    ways: dict[str, Callable[[Array, int], Coded]] = {
        f"plain {level}": functools.partial(_plain, codec=codec, level=level) for level in PLAIN
    }
    for level in LEVELS:
        for way in (least, pairs, random):
            for share in SHARES:
                change = functools.partial(lambda y, seed, way, share: way(y, share, seed), way=way, share=share)
                ways[f"{way.__name__} {share:.0%} {level}"] = functools.partial(
                    coded, codec=codec, transform=transform, level=level, change=change
                )
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--questions", type=int, default=960)
    options = parser.parse_args()
    bench = UndividedModel()
    ways, base, scores = settings(bench.codec), Score(), dict[str, Score]()
    pictures = math.ceil(options.questions / QUESTIONS_A_PICTURE)
    for start in range(0, pictures, CHUNK):
        numbers = range(start, min(start + CHUNK, pictures))
        scenes = [draw(TRAINED[n % len(TRAINED)], HELD_OUT_SEEDS + SEED * 2**28 + n) for n in numbers]
        asked = [
            ask(s, np.random.default_rng([97, n]), QUESTIONS_A_PICTURE) for s, n in zip(scenes, numbers, strict=True)
        ]
        tokens = bench.tokens_of([scene.image for scene in scenes])
        prompts = [bench.prompt_bytes(scene.image, questions) for scene, questions in zip(scenes, asked, strict=True)]
        base.right += bench.answers(tokens, asked)
        base.bytes += [0.0] * len(scenes)
        for name, way in ways.items():
            done = [way(x_TC.numpy(), seed) for x_TC, seed in zip(tokens, numbers, strict=True)]
            back = torch.from_numpy(np.stack([restored for _, restored in done]).astype(np.float32))
            score = scores.setdefault(name, Score())
            score.right += bench.answers(back, asked)
            score.bytes += [begin_bytes(size + more) for (size, _), more in zip(done, prompts, strict=True)]
        print(f"\r{numbers.stop} of {pictures} pictures ", end="", flush=True)
    print()
    rows = {}
    for name, score in scores.items():
        fewer, half = lost(base, score)
        rows[name] = {"bytes": round(float(np.mean(score.bytes)), 1), "lost": round(fewer, 4), "half": round(half, 4)}
        print(f"{name:18} {rows[name]['bytes']:7.1f} bytes, lost {100 * fewer:5.2f} +- {100 * half:.2f} points")
    print(
        json.dumps({"benchmark": "fewer tokens", "questions": len(base.right) * QUESTIONS_A_PICTURE, "settings": rows})
    )


if __name__ == "__main__":
    main()
