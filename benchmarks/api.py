"""What the OpenAI API over HTTP costs beside gRPC, on one edge node: time to the first piece of text, and gaps between pieces.

    added_ms = median over pairs of (first piece over HTTP - first piece over gRPC)
    gap_ms   = median over all gaps between two pieces, of each API

- Both ask the same node the same question about the same picture, in turn (A B A B ...), after a warm-up each; tokens are drawn
  with the seed of the pair, so that both answers are the same, and long.
- Times are the client's, from the call to the piece. Over HTTP the picture goes in base64 within JSON, from httpx; over gRPC it
  goes as bytes, from grpc.aio. Both connections are open before. gRPC speaks mutual TLS; HTTP is plain, as it is on loopback.
- All processes share this machine, client included.

`python benchmarks/api.py [--model shape:smolvlm-256m] [--tokens 24] [--runs 20] [--threads 1]`. Last line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from splitvlm.crypto.identity import Role
from splitvlm.domain import Conversation
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.scenes.samples import samples
from splitvlm.tools.launcher import Launcher

TEMPERATURE = 20.0  # nearly any token may come, so that hardly any answer ends early
PLAN = "tokens/lossless"


@dataclass
class Times:
    """Holds the seconds of one API: to the first piece of each answer, and between the pieces."""

    first_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)

    async def take(self, pieces: AsyncIterator[str]) -> str:
        """Notes the times of one answer, and returns its text."""
        at_s, text = [time.perf_counter()], ""
        async for piece in pieces:
            at_s.append(time.perf_counter())
            text += piece
        self.first_s.append(at_s[1] - at_s[0])
        self.gaps_s += [later - earlier for earlier, later in pairwise(at_s[1:])]
        return text


async def main() -> None:
    options = _options()
    picture, question = next(samples(1, options.model))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    model = {"name": options.model, "threads": options.threads}
    with tempfile.TemporaryDirectory() as folder:
        async with Launcher(Path(folder)) as launcher:
            cloud = await launcher.start("cloud", {"model": model, "cuts": ["tokens"]})
            settings = {
                "model": model,
                "cloud": cloud.address,
                "http": {"listen": "127.0.0.1:0", "model_name": "model"},
            }
            edge = await launcher.start("edge", settings | {"planning": {"fixed_plan": PLAN}})
            client = EdgeClient(edge.address, launcher.identity("bench", Role.APP))
            await client.connect()
            async with httpx2.AsyncClient(base_url=edge.facts["http"], timeout=600.0) as http:
                result = await _measured(options, client, http, buffer.getvalue(), question)
            await client.close()
    print(json.dumps(result))


async def _measured(
    options: argparse.Namespace, client: EdgeClient, http: httpx2.AsyncClient, image: bytes, question: str
) -> dict[str, Any]:
    grpc_times, http_times, same = Times(), Times(), True
    for run in range(options.runs + 1):
        if run == 1:
            grpc_times, http_times = Times(), Times()
        first = await grpc_times.take(_over_grpc(client, image, question, options.tokens, run))
        second = await http_times.take(_over_http(http, image, question, options.tokens, run))
        same = same and first == second
        print(
            f"{run or 'warm-up'}: gRPC {grpc_times.first_s[-1] * 1e3:.1f} ms, HTTP {http_times.first_s[-1] * 1e3:.1f} ms"
        )
    pairs = zip(http_times.first_s, grpc_times.first_s, strict=True)
    return {
        "model": options.model,
        "runs": options.runs,
        "tokens": options.tokens,
        "added_ms": _ms([over_http - over_grpc for over_http, over_grpc in pairs]),
        "first_grpc_ms": _ms(grpc_times.first_s),
        "first_http_ms": _ms(http_times.first_s),
        "gap_grpc_ms": _ms(grpc_times.gaps_s),
        "gap_http_ms": _ms(http_times.gaps_s),
        "gaps": len(http_times.gaps_s),
        "same_texts": same,
    }


async def _over_grpc(client: EdgeClient, image: bytes, question: str, tokens: int, seed: int) -> AsyncIterator[str]:
    conversation = Conversation.about(question)
    async for answer in client.ask(conversation, [image], max_new_tokens=tokens, temperature=TEMPERATURE, seed=seed):
        if answer.WhichOneof("body") == "text":
            yield answer.text


async def _over_http(
    http: httpx2.AsyncClient, image: bytes, question: str, tokens: int, seed: int
) -> AsyncIterator[str]:
    url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    body = {
        "messages": [{"role": "user", "content": content}],
        "stream": True,
        "max_tokens": tokens,
        "temperature": TEMPERATURE,
        "seed": seed,
    }
    async with http.stream("POST", "chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                [choice] = json.loads(line.removeprefix("data: "))["choices"]  # noqa: TID251  its own node's
                if choice["delta"].get("content"):
                    yield choice["delta"]["content"]


def _ms(seconds: list[float]) -> float:
    return round(1e3 * median(seconds), 2)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shape:smolvlm-256m")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
