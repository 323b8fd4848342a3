"""What splitting costs when the link is free: the cut `tokens`, lossless, over loopback, against transformers' generate.

    ratio = median(split_s) / median(unsplit_s)

- split: an edge process and a cloud process with mutual TLS and sealed frames; from the question's arrival at the edge
  process to the end of the answer, PNG decoding, processor, both codecs and all hops included.
- unsplit: `model.generate` in one process on the same picture and question, processor included.
- Both with the same number of threads, in turn (A B A B ...), after a warm-up each. Device and cloud never compute at the
  same time for one question, so sharing the processor costs the split nothing; a real link would come on top.

`python benchmarks/overhead.py [--model shape:smolvlm-256m] [--tokens 32] [--runs 5] [--threads 2]`. Last line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import tempfile
import time
from pathlib import Path
from statistics import median

from PIL import Image

from splitvlm.crypto.identity import Role
from splitvlm.domain import TOKENS, Conversation
from splitvlm.model.loading import load_whole, read_spec
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import Reference
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.scenes.samples import samples
from splitvlm.tools.launcher import Launcher, Node

MIB = 2**20


async def main() -> None:
    options = _options()
    picture, question = next(samples(1, options.model))
    model = {"name": options.model, "threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        async with Launcher(Path(folder)) as launcher:
            cloud = await launcher.start("cloud", {"model": model, "cuts": ["tokens"]})
            fixed = {"model": model, "cloud": cloud.address}
            planning = {
                "fixed_plan": "tokens/lossless",
                "prefix_cache": False,
            }  # one picture many times, sent each time
            tokens = await launcher.start("edge", fixed | {"planning": planning})
            image = await launcher.start(
                "edge", fixed | {"node": "edge-2", "planning": {"fixed_plan": "image/lossless"}}
            )
            client = EdgeClient(tokens.address, launcher.identity("bench", Role.APP))
            times = await _measure(client, options, picture, question)
            await client.close()
            memory = _memory(options.model, tokens, image)
    _print(options, *times, memory)


async def _measure(
    client: EdgeClient, options: argparse.Namespace, picture: Image.Image, question: str
) -> tuple[list[float], list[float], bool]:
    reference = Reference(*load_whole(options.model, threads=options.threads))
    png = _png(picture)
    split_s, unsplit_s, same = [], [], True
    for run in range(options.runs + 1):
        started_s = time.perf_counter()
        expected = reference.tokens(Prompt.about(picture, question), options.tokens)
        unsplit_took_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        got = await _split(client, png, question, options.tokens)
        split_took_s = time.perf_counter() - started_s
        same = same and got == expected
        print(
            f"{'warm-up' if run == 0 else run}: unsplit {unsplit_took_s:.3f} s, split {split_took_s:.3f} s, {len(got)} tokens"
        )
        if run:
            unsplit_s.append(unsplit_took_s)
            split_s.append(split_took_s)
    return unsplit_s, split_s, same


async def _split(client: EdgeClient, png: bytes, question: str, tokens: int) -> list[int]:
    ids: list[int] = []
    async for answer in client.ask(Conversation.about(question), [png], max_new_tokens=tokens):
        ids = list(answer.report.token_ids)
    return ids


def _memory(model: str, tokens: Node, image: Node) -> dict[str, float]:
    """Returns the MiB of an edge process that serves only `tokens`, of one that runs no layer, and the weights between them."""
    return {
        "edge_tokens_rss_mib": _rss_mib(tokens),
        "edge_image_rss_mib": _rss_mib(image),
        "lower_weights_mib": 4 * read_spec(model).device_parameters(TOKENS) / MIB,
        "all_weights_mib": 4 * read_spec(model).parameters.total / MIB,
    }


def _rss_mib(node: Node) -> float:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _print(
    options: argparse.Namespace, unsplit_s: list[float], split_s: list[float], same: bool, memory: dict[str, float]
) -> None:
    for name, value in memory.items():
        print(f"{name}: {value:.0f}")
    result = {
        "model": options.model,
        "threads": options.threads,
        "tokens": options.tokens,
        "ratio": round(median(split_s) / median(unsplit_s), 4),
        "split_s": round(median(split_s), 4),
        "unsplit_s": round(median(unsplit_s), 4),
        "same_tokens": same,
        **{name: round(value, 1) for name, value in memory.items()},
    }
    print(json.dumps(result))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shape:smolvlm-256m")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
