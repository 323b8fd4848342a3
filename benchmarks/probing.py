"""What an adaptive device sends besides its questions: `python benchmarks/probing.py`. Real processes, TCP payload bytes.

    asking     (all that the device sends, to the cloud node and to the orchestrator) / (what it sends while a question runs)
    idle       all bytes of both connections in both directions, of a day without questions (from so many seconds, scaled)

Both connections run through link emulators, which count TCP payload: TLS, HTTP/2, gRPC and sealing are in it, headers of TCP
and IP (about as much again for small packets) are not. Session set-up before the first question is counted apart. The
device is slowed down, so that plans with a cloud win, and it can answer alone, so that it hedges: it has every plan.

Bars: asking at most 1.15 at a question every 3 s; idle at most 1 MB a day. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from splitvlm.crypto.identity import Role
from splitvlm.domain import Conversation
from splitvlm.errors import PeerUnavailable
from splitvlm.host_port import host_and_port
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.tracefiles import load_living
from splitvlm.link.traces import Trace
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.scenes import held_out
from splitvlm.tools.demo import DemoQuestion
from splitvlm.tools.launcher import Launcher

LOOPBACK = ("127.0.0.1", 0)
DELAY_S = 0.015
MOST_ASKING = 1.15
MOST_IDLE_BYTES = 1_000_000
SECONDS_A_DAY = 86_400.0


@dataclass
class Counted:
    """Counts on both connections of the device."""

    cloud: LinkEmulator
    orchestrator: LinkEmulator

    def sent(self) -> int:
        return self.cloud.up.delivered_bytes + self.orchestrator.up.delivered_bytes

    def both_ways(self) -> int:
        return self.sent() + self.cloud.down.delivered_bytes + self.orchestrator.down.delivered_bytes


async def main() -> None:
    options = _options()
    trace = load_living(options.trace).up
    asked = [DemoQuestion(scene.image, q.text, q.answer) for scene, q in held_out(options.questions, 7)]
    with tempfile.TemporaryDirectory() as folder:
        async with Launcher(Path(folder)) as launcher:
            orchestrator = await launcher.start("orchestrator", {})
            cloud = await launcher.start("cloud", {"orchestrator": orchestrator.address, "model": {"threads": 1}})
            async with (
                LinkEmulator(LOOPBACK, host_and_port(cloud.address), LinkShape(trace, delay_s=DELAY_S)) as data,
                LinkEmulator(LOOPBACK, host_and_port(orchestrator.address), LinkShape(Trace.constant(50e6))) as control,
            ):
                counted = Counted(data, control)
                edge = await launcher.start("edge", _edge(options, data.port, control.port))
                client = EdgeClient(edge.address, launcher.identity("bench", Role.APP))
                try:
                    await _wait_for_table(client)
                    result = await _measure(options, client, counted, asked)
                finally:
                    await client.close()
    print(json.dumps(result))


def _edge(options: argparse.Namespace, cloud_port: int, orchestrator_port: int) -> dict[str, object]:
    return {
        "orchestrator": f"127.0.0.1:{orchestrator_port}",
        "cloud": f"127.0.0.1:{cloud_port}",
        "model": {"threads": 1},
        "planning": {"expected_tokens": 4, "prefix_cache": False},
        "emulation": {"slowdown": options.slowdown},
    }


async def _wait_for_table(client: EdgeClient) -> None:
    for _ in range(600):
        status = await client.status()
        if status.plans and status.cloud_reachable:
            return
        await asyncio.sleep(0.1)
    raise PeerUnavailable("The edge node got no plan table within 60 s.", advice="Run again on a quieter machine.")


async def _measure(
    options: argparse.Namespace, client: EdgeClient, counted: Counted, asked: list[DemoQuestion]
) -> dict[str, object]:
    plans: Counter[str] = Counter()
    await _ask(client, asked[0])  # sets the session up
    setup_bytes, own_bytes = counted.sent(), 0
    for question in asked[1:]:
        due_s = asyncio.get_running_loop().time() + options.every
        before = counted.sent()
        plans[await _ask(client, question)] += 1
        own_bytes += counted.sent() - before
        await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))
    all_bytes, number = counted.sent() - setup_bytes, len(asked) - 1
    print(f"Set-up: {setup_bytes} bytes, one question among them. Plans: {dict(plans)}")
    print(
        f"Asking every {options.every:g} s: {own_bytes / number:.0f} bytes a question, {all_bytes / number:.0f} with all "
        f"else: {all_bytes / own_bytes:.3f} (at most {MOST_ASKING})",
        flush=True,
    )
    await asyncio.sleep(options.settle)  # the last report; probes end a minute after the last question
    before = counted.both_ways()
    await asyncio.sleep(options.idle)
    a_day = (counted.both_ways() - before) / options.idle * SECONDS_A_DAY
    print(f"Idle: {a_day / 1e6:.2f} MB a day, both ways (at most {MOST_IDLE_BYTES / 1e6:g})")
    return {
        "questions": number,
        "every_s": options.every,
        "own_bytes": own_bytes,
        "sent_bytes": all_bytes,
        "asking_ratio": all_bytes / own_bytes,
        "idle_s": options.idle,
        "idle_bytes_a_day": a_day,
        "plans": dict(plans),
    }


async def _ask(client: EdgeClient, asked: DemoQuestion) -> str:
    """Returns the plan that answered."""
    plan = ""
    async for message in client.ask(Conversation.about(asked.question), [asked.coded("PNG")]):
        if message.WhichOneof("body") == "report":
            plan = message.report.plan
    return plan


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", default="synthetic:walk", help="of the uplink to the cloud node")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--every", type=float, default=3.0, help="seconds from one question to the next")
    parser.add_argument("--idle", type=float, default=600.0, help="seconds without a question")
    parser.add_argument("--settle", type=float, default=65.0, help="seconds from the last question to the idle ones")
    parser.add_argument("--slowdown", type=float, default=10.0, help="of the device's stages")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
