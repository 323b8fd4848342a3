"""How long linear layers take whose weights lie as oneDNN's kernels read them (splitvlm/model/packed_linear.py).

    ratio = seconds of the packed layers / seconds of torch's own, medians, in turns, in one process

Layers of a language model's shape, one after another, so that weights come from memory as in an answer; so many tokens at once:
one answer, sixteen answers, a prompt. `python benchmarks/packed_linear.py [--threads 2]`. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import cycle, islice
from statistics import median

import torch
from torch import nn

from splitvlm.model.packed_linear import PackedLinear, can_pack
from splitvlm.model.threads import use_threads

SHAPES = ((576, 576), (576, 1536), (1536, 576), (576, 49_280))  # SmolVLM-256M's language model, its head last
TOKENS = (1, 16, 48, 1_088)
MOST_AT_HEAD = 48  # of a prompt only the last token goes there
LAYERS = 20


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    use_threads(options.threads)
    ratios = {}
    for dtype in (torch.float32, torch.bfloat16):
        if not can_pack(dtype):
            print(f"{dtype} is not packed here.")
            continue
        name = str(dtype).removeprefix("torch.")
        ratios[name] = {tokens: _ratio(dtype, tokens, options.repeats) for tokens in TOKENS}
        for tokens, by_shape in ratios[name].items():
            print(
                f"{name} {tokens:5} tokens: " + ", ".join(f"{shape} {ratio:.2f}" for shape, ratio in by_shape.items())
            )
    print(json.dumps({"threads": options.threads, "ratio": ratios}))


def _ratio(dtype: torch.dtype, tokens: int, repeats: int) -> dict[str, float]:
    """Returns the packed layers' time over the plain ones', by shape."""
    ratios = {}
    for inputs, outputs in SHAPES[:3] if tokens > MOST_AT_HEAD else SHAPES:
        plain = [nn.Linear(inputs, outputs, bias=False, dtype=dtype) for _ in range(LAYERS if outputs < 10_000 else 2)]
        packed = [PackedLinear(layer) for layer in plain]
        states = torch.randn(tokens, inputs, dtype=dtype)
        took_s: dict[bool, list[float]] = {False: [], True: []}
        for pair in islice(cycle(zip(plain, packed, strict=True)), repeats):
            for layer in pair:
                began_s = time.perf_counter()
                layer(states)
                took_s[isinstance(layer, PackedLinear)].append(time.perf_counter() - began_s)
        ratios[f"{inputs}x{outputs}"] = round(median(took_s[True]) / median(took_s[False]), 3)
    return ratios


if __name__ == "__main__":
    main()
