"""How a cloud node's tokens a second grow with the devices that ask at once, against transformers' generate in series.

    speedup[N]           = tokens/s of N devices / tokens/s of generate, one answer after another
    single_session_ratio = seconds of one device's answer / seconds of generate's, medians
    itl_p95_ratio        = 95th percentile of the gaps between tokens with ITL_DEVICES devices / that with one

- The node: a process, mutual TLS, sealed sessions, recorded features at `tokens`, the engine torch; a closed loop of N devices,
  each asking again when its answer has ended, so that prompts join while others are answered.
- generate: transformers' own on the same prompts as embeddings and the same weights, in this process, before the node starts.
  It has no tower, no decoding of features and no link. Each answer has the same number of tokens: end tokens are not obeyed
  there, and a `shape:` model does not give one.
- Unfairness: devices, front end and engine share this machine's cores; generate has them alone.

`python benchmarks/cloud.py [--model shape:smolvlm-256m] [--tokens 128] [--devices 1,2,4,8,16,32] [--dtype auto]`; `--quick`
asks little. Last line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from feature_load import RECORDINGS, feature_load

from splitvlm.domain import TOKENS
from splitvlm.local_model import LocalModel
from splitvlm.model.causal_folder import causal_model
from splitvlm.model.dtype_choice import chosen_dtype
from splitvlm.model.loading import load_cloud
from splitvlm.model.prompt import Prompt
from splitvlm.scenes.samples import samples
from splitvlm.settings import ModelChoice
from splitvlm.tools.launcher import Launcher
from splitvlm.tools.load.run import run_load

ITL_DEVICES = 16


async def main() -> None:
    options = _options()
    serial = _serial(options)
    print(
        f"generate, one answer after another: {serial['tokens_per_s']:.1f} tokens/s, {serial['answer_s']:.2f} s an answer"
    )
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        async with Launcher(Path(folder)) as launcher:
            model = {"name": options.model, "dtype": options.dtype, "threads": options.threads}
            limits = {"max_sessions": 128, "max_sessions_per_device": 8, "max_new_tokens": options.tokens}
            cloud = await launcher.start("cloud", {"model": model, "cuts": ["tokens"], "limits": limits})
            for devices in options.devices:
                results[devices] = await run_load(
                    feature_load(options, devices, cloud.address, launcher.keys, dtype=options.dtype)
                )
    _print(options, serial, results)


@torch.inference_mode()
def _serial(options: argparse.Namespace) -> dict[str, float]:
    """Answers the recorded prompts by transformers' generate, given as the language model's input."""
    part = load_cloud(options.model, [TOKENS], dtype=options.dtype, threads=options.threads, packed=False)
    local = LocalModel.load(options.model, [TOKENS], threads=options.threads)
    causal = causal_model(part)
    prompts = [
        part.embedded_prompt(TOKENS, local.boundary(Prompt.about(picture, question), TOKENS).tensors)["hidden"][
            None
        ].to(part.model.dtype)
        for picture, question in samples(RECORDINGS, options.model)
    ]
    took_s = []
    for prompt_1TD in [prompts[0], *prompts[: 1 + options.answers]]:
        began_s = time.perf_counter()
        mask_1T = torch.ones(prompt_1TD.shape[:2], dtype=torch.long)
        causal.generate(
            inputs_embeds=prompt_1TD,
            attention_mask=mask_1T,
            do_sample=False,
            min_new_tokens=options.tokens,
            max_new_tokens=options.tokens,
            pad_token_id=0,
        )
        took_s.append(time.perf_counter() - began_s)
    answer_s = median(took_s[1:])  # the first is a warm-up
    return {"answer_s": answer_s, "tokens_per_s": options.tokens / answer_s}


def _print(options: argparse.Namespace, serial: dict[str, float], results: dict[int, dict[str, Any]]) -> None:
    speedup = {devices: result["output_tokens_per_s"] / serial["tokens_per_s"] for devices, result in results.items()}
    alone = results[1]
    busy = results.get(ITL_DEVICES)
    for devices, result in results.items():
        print(f"{devices:3} devices: {result['output_tokens_per_s']:7.1f} tokens/s, {speedup[devices]:5.2f} x generate")
    summary = {
        "model": options.model,
        "dtype": options.dtype,
        "tokens": options.tokens,
        "serial_tokens_per_s": round(serial["tokens_per_s"], 2),
        "speedup": {devices: round(value, 3) for devices, value in speedup.items()},
        "single_session_ratio": round(alone["e2e_ms"]["p50"] / 1e3 / serial["answer_s"], 3),
        "itl_p95_ratio": round(busy["itl_ms"]["p95"] / alone["itl_ms"]["p95"], 3) if busy else None,
        "failed": {devices: result["failed"] for devices, result in results.items() if result["failed"]},
    }
    print(json.dumps(summary))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shape:smolvlm-256m")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--devices", default="1,2,4,8,16,32", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--answers", type=int, default=3, help="of each device")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"), help="of both sides")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one and sixteen devices, short answers")
    options = parser.parse_args()
    if options.quick:
        options.devices, options.tokens, options.answers = [1, 16], 32, 1
    options.dtype = chosen_dtype(ModelChoice(name=options.model, dtype=options.dtype)).dtype
    if 1 not in options.devices:
        parser.error("--devices needs 1, to which the others are compared")
    return options


if __name__ == "__main__":
    asyncio.run(main())
