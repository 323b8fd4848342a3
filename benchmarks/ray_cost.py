"""What a pool on Ray costs beside the pool in the cloud node's own process, with one worker each.

    ttft_added_ms      = median time to the first token over Ray - that without, milliseconds
    tokens_per_s_ratio = tokens/s over Ray / tokens/s without, medians of the rounds

- Two cloud nodes run at the same time, mutual TLS, one worker with the same settings each; rounds ask one and the other in
  turn, in changing order, by a closed loop of devices that send recorded features at `tokens`. The other node is idle then.
- Over Ray an envelope goes through one more process and one more TLS connection, on the loopback of this machine: a cluster's
  network comes on top. Ray's own processes run beside, on the same cores: that is part of the cost.

`python benchmarks/ray_cost.py [--model shape:smolvlm-256m] [--tokens 64] [--devices 1] [--rounds 6]`. Last line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from feature_load import feature_load

from splitvlm.tools.launcher import Launcher
from splitvlm.tools.load.run import run_load

POOLS: Mapping[str, Mapping[str, object]] = {"local": {}, "ray": {"kind": "ray"}}


async def main() -> None:
    options = _options()
    rounds: dict[str, list[dict[str, Any]]] = {pool: [] for pool in POOLS}
    with tempfile.TemporaryDirectory() as folder:
        async with Launcher(Path(folder)) as launcher:
            addresses = {pool: await _node(launcher, options, pool) for pool in POOLS}
            for number in range(options.rounds):
                for pool in sorted(POOLS, reverse=bool(number % 2)):
                    load = feature_load(options, options.devices, addresses[pool], launcher.keys, recordings=2)
                    rounds[pool].append(await run_load(load))
    print(json.dumps(_summary(options, rounds)))


async def _node(launcher: Launcher, options: argparse.Namespace, pool: str) -> str:
    settings = {
        "node": f"cloud-{pool}",
        "model": {"name": options.model, "threads": options.threads},
        "cuts": ["tokens"],
        "pool": POOLS[pool],
    }
    return (await launcher.start("cloud", settings)).address


def _summary(options: argparse.Namespace, rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ttft_ms = {pool: median(each["ttft_ms"]["p50"] for each in results) for pool, results in rounds.items()}
    tokens_per_s = {pool: median(each["output_tokens_per_s"] for each in results) for pool, results in rounds.items()}
    return {
        "benchmark": "ray_cost",
        "model": options.model,
        "devices": options.devices,
        "rounds": options.rounds,
        "ttft_p50_ms": {pool: round(value, 2) for pool, value in ttft_ms.items()},
        "tokens_per_s": {pool: round(value, 1) for pool, value in tokens_per_s.items()},
        "ttft_added_ms": round(ttft_ms["ray"] - ttft_ms["local"], 2),
        "tokens_per_s_ratio": round(tokens_per_s["ray"] / tokens_per_s["local"], 4),
        "failed": sum(each["requests"] - each["answered"] for results in rounds.values() for each in results),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shape:smolvlm-256m")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--answers", type=int, default=4, help="of each device in a round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
