"""What sealing costs: requests with and without it, over the same TLS. The last line is JSON with `ratio`.

    python benchmarks/sealing.py [--requests N]

A cloud node and a device part of the embedded model in one process, over mutual TLS on loopback. Two sessions are open: one as
always, and one whose frames were left as they are (16 zero bytes stand for the tag), which exists in this benchmark only.
Formula. ratio: mean over plans of median(sealed request) / median(plain request), requests of both in turn; a request is
from the question to the last token. Both pay the same model, codec, protobuf, gRPC and TLS.
Unfairness: on a slow link the 16 bytes a frame would count as well; here they cost nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the nodes of the tests

from splitvlm.crypto.identity import Role  # noqa: E402
from splitvlm.crypto.sealing import OVERHEAD_BYTES  # noqa: E402
from splitvlm.model.threads import use_threads  # noqa: E402
from splitvlm.scenes import held_out  # noqa: E402
from tests.nodes import Device, Keys, cloud_node, device  # noqa: E402

PLANS = ("tokens/lossless", "tokens/klt3", "image/webp50")


class Plain:
    """Stands for Sealer and Opener, and seals nothing."""

    @classmethod
    def of_device(cls, _keys: Any) -> Plain:
        return cls()

    @classmethod
    def of_cloud(cls, _keys: Any) -> Plain:
        return cls()

    def seal(self, plaintext: bytes) -> bytes:
        return plaintext + bytes(OVERHEAD_BYTES)

    def open(self, ciphertext: bytes) -> bytes:
        return ciphertext[:-OVERHEAD_BYTES]


async def run(requests: int) -> dict[str, Any]:
    use_threads(1)
    asked = [(scene.image, question.text) for scene, question in held_out(24, 5)]
    with tempfile.TemporaryDirectory() as folder:
        keys = Keys(Path(folder) / "keys")
        identity = keys.identity("edge-1", Role.EDGE)
        async with (
            cloud_node("scenes", keys) as cloud,
            device("scenes", cloud, identity) as sealed,
            device("scenes", cloud, identity) as plain,
        ):
            with (
                mock.patch.multiple("cloud_node.worker.handshake", Sealer=Plain, Opener=Plain),
                mock.patch.multiple("edge_node.cloud.session", Sealer=Plain, Opener=Plain),
            ):
                await plain.link.sessions.warm_up()
            await sealed.link.sessions.warm_up()
            rows = {plan: await _plan(plan, {"sealed": sealed, "plain": plain}, asked, requests) for plan in PLANS}
    return {
        "benchmark": "sealing",
        "requests": requests,
        "ratio": round(statistics.mean(row["ratio"] for row in rows.values()), 4),
        "plans": rows,
    }


async def _plan(plan: str, sides: dict[str, Device], asked: list[Any], requests: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(requests + 4):
        for name in sides if number % 2 else reversed(sides):
            started_s = time.perf_counter()
            await sides[name].ask(plan, *asked[number % len(asked)])
            if number >= 4:
                times[name].append(time.perf_counter() - started_s)
    sealed_s, plain_s = (statistics.median(times[name]) for name in ("sealed", "plain"))
    row = {"sealed_ms": 1e3 * sealed_s, "plain_ms": 1e3 * plain_s, "ratio": sealed_s / plain_s}
    print(f"{plan:18} sealed {row['sealed_ms']:.2f} ms, plain {row['plain_ms']:.2f} ms, ratio {row['ratio']:.4f}")
    return {name: round(value, 4) for name, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200)
    print(json.dumps(asyncio.run(run(parser.parse_args().requests))))


if __name__ == "__main__":
    main()
