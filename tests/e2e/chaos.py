"""The fault laboratory: real processes, a question at a time, and something that breaks while it is answered.

    python -m tests.e2e.chaos --runs 200 --seed 1

An orchestrator, two cloud nodes and a device that could hold the whole embedded model; a link emulator before each cloud
node. Each run asks a question under a lossless plan, breaks one thing at a random moment of its answer, and compares what came
with the answer without faults. One line a run; the last line is a JSON object:

    complete             answers that came to their end
    identical            answers with the tokens and the text of the run without faults
    duplicates           tokens beyond those
    detection_p95_s      from a failed node's last sign of life until it was given up, by the device's clock
    prefill_p95_s        of the same questions without faults, in the cloud
    recovery_p95_s       the longest wait of the application for a piece of the answer after the fault, where a node failed

Faults: kill (SIGKILL) or stop (SIGSTOP) the cloud node in use; reset its connections and refuse new ones; let nothing pass
(half-open); slow the link down to 64 kbit/s; both cloud nodes out of reach; kill the orchestrator; suspend the device for a
second, which its clock sees as a jump. The second cloud node's log is on a full disk (/dev/full) all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from splitvlm.crypto.identity import Role
from splitvlm.errors import SplitvlmError
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.traces import Trace
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.scenes import held_out
from splitvlm.tools.launcher import Launcher, Node
from splitvlm.wire.v1 import local_pb2 as pb

PLANS = ("image/lossless", "vision:3/lossless", "tokens/lossless", "lm:2/lossless")
UPLINK_BPS, SLOW_BPS, DELAY_S = 20e6, 64e3, 0.01
SLOWDOWN = 3.0  # EMULATION of a weaker device: the faults need time to happen in
QUESTIONS = 12
ANSWER_TIMEOUT_S = 60.0
HEALED_TIMEOUT_S = 120.0
FULL_DISK = Path("/dev/full")
Ask = tuple[bytes, str]


@dataclass
class Answer:
    text: str = ""
    report: pb.RequestReport = field(default_factory=pb.RequestReport)
    pieces_at_s: list[float] = field(default_factory=list)
    error: str = ""


@dataclass
class Run:
    fault: str
    complete: bool
    identical: bool
    duplicates: int
    detection_s: float | None
    recovery_s: float | None
    error: str = ""


class Laboratory:
    """`async with Laboratory(folder) as laboratory:` Everything that was started or broken is stopped at its end."""

    def __init__(
        self, folder: Path, *, prefix_cache_s: float = 0.0, limits: Mapping[str, object] | None = None
    ) -> None:
        """Cloud nodes cache prefixes for `prefix_cache_s`; for 0 devices do not ask them to. `limits` are theirs."""
        self.launcher = Launcher(folder)
        self._prefix_cache_s = prefix_cache_s
        self._limits = dict(limits or {})
        self._stack = contextlib.AsyncExitStack()
        self._orchestrator_port, *self._ports = _free_ports(3)
        self.links: dict[str, LinkEmulator] = {}  # by the address that devices dial
        self.clouds: dict[str, Node] = {}
        self.orchestrator: Node
        self.edge: Node
        self.client: EdgeClient

    async def __aenter__(self) -> Laboratory:
        await self._stack.enter_async_context(self.launcher)
        for port in self._ports:
            link = LinkEmulator(
                ("127.0.0.1", 0), ("127.0.0.1", port), LinkShape(Trace.constant(UPLINK_BPS), delay_s=DELAY_S)
            )
            await self._stack.enter_async_context(link)
            self.links[f"127.0.0.1:{link.port}"] = link
        await self.start_orchestrator()
        for address in self.links:
            await self.start_cloud(address)
        planning = {"cuts": ["image", "vision:3", "tokens", "lm:2", "device"], "prefix_cache": self._prefix_cache_s > 0}
        self.edge = await self.launcher.start(
            "edge",
            {"orchestrator": self.orchestrator.address, "model": {"threads": 1}, "planning": planning}
            | {"emulation": {"slowdown": SLOWDOWN}},
        )
        self.client = EdgeClient(self.edge.address, self.launcher.identity("app", Role.APP))
        self._stack.push_async_callback(self.client.close)
        await self.healed()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.clouds.values():
            _signal(node, signal.SIGCONT)
        await self._stack.aclose()

    async def start_orchestrator(self) -> None:
        listen = f"127.0.0.1:{self._orchestrator_port}"
        self.orchestrator = await self.launcher.start("orchestrator", {"heartbeat_s": 0.5, "listen": listen})

    async def start_cloud(self, address: str) -> None:
        number = list(self.links).index(address)
        settings = {
            "node": f"cloud-{number + 1}",
            "listen": f"127.0.0.1:{self._ports[number]}",
            "advertise": address,
            "orchestrator": self.orchestrator.address,
            "model": {"threads": 1},
            "cuts": ["image", "vision:3", "tokens", "lm:2"],
        }
        if self._prefix_cache_s:
            self._limits["prefix_cache_s"] = self._prefix_cache_s
        settings["limits"] = self._limits
        self.clouds[address] = await self.launcher.start("cloud", settings, FULL_DISK if number else None)

    async def healed(self) -> str:
        """Wait until the device has both cloud nodes again; the address of the one in use."""
        async with asyncio.timeout(HEALED_TIMEOUT_S):
            while True:
                status = await self.client.status()
                if status.cloud_reachable and {status.cloud_address, *status.standby} == set(self.links):
                    return str(status.cloud_address)
                await asyncio.sleep(0.05)

    async def ask(self, asked: Ask, plan: str) -> Answer:
        answer = Answer()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                async for message in self.client.ask(*asked, plan=plan):
                    if message.text:
                        answer.text += message.text
                        answer.pieces_at_s.append(time.monotonic())
                    if message.HasField("report"):
                        answer.report = message.report
        except (SplitvlmError, TimeoutError) as error:
            answer.error = str(error) or "no answer in time"
        return answer

    # Faults: each breaks something of the cloud node at `address`, and gives back how it is mended.

    async def kill(self, address: str) -> Callable[[], Awaitable[None]]:
        _signal(self.clouds[address], signal.SIGKILL)
        await self.clouds[address].process.wait()
        return lambda: self.start_cloud(address)

    async def stop(self, address: str) -> Callable[[], Awaitable[None]]:
        _signal(self.clouds[address], signal.SIGSTOP)
        return _later(lambda: _signal(self.clouds[address], signal.SIGCONT))

    async def reset(self, address: str) -> Callable[[], Awaitable[None]]:
        self.links[address].cut(drop=True)
        return _later(self.links[address].restore)

    async def half_open(self, address: str) -> Callable[[], Awaitable[None]]:
        self.links[address].cut()
        return _later(self.links[address].restore)

    async def slow(self, address: str) -> Callable[[], Awaitable[None]]:
        bottleneck = self.links[address].up.bottleneck
        bottleneck.turn(Trace.constant(SLOW_BPS))
        return _later(lambda: bottleneck.turn(Trace.constant(UPLINK_BPS)))

    async def no_cloud(self, address: str) -> Callable[[], Awaitable[None]]:
        for link in self.links.values():
            link.cut(drop=True)

        def mend() -> None:
            for link in self.links.values():
                link.restore()

        return _later(mend)

    async def no_orchestrator(self, address: str) -> Callable[[], Awaitable[None]]:
        _signal(self.orchestrator, signal.SIGKILL)
        await self.orchestrator.process.wait()
        return self.start_orchestrator

    async def suspend_device(self, address: str) -> Callable[[], Awaitable[None]]:
        _signal(self.edge, signal.SIGSTOP)
        await asyncio.sleep(1.0)
        _signal(self.edge, signal.SIGCONT)
        return _later(lambda: None)


FAULTS = ("kill", "stop", "reset", "half_open", "slow", "no_cloud", "no_orchestrator", "suspend_device")
"""Methods of Laboratory."""


async def chaos(runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Prints a line a run; the summary."""
    draw = random.Random(seed)
    asked = questions()
    async with Laboratory(folder) as laboratory:
        plain = {(place, plan): await laboratory.ask(one, plan) for place, one in enumerate(asked) for plan in PLANS}
        for answer in plain.values():
            if answer.error or answer.text != plain[_place(plain, answer), PLANS[0]].text:
                raise SystemExit(f"without a fault: {answer.error or 'two lossless plans, two answers'}")
        done = []
        for number in range(runs):
            place, plan, fault = draw.randrange(len(asked)), draw.choice(PLANS), FAULTS[number % len(FAULTS)]
            usual = plain[place, plan]
            run = await _one(laboratory, asked[place], plan, fault, draw.uniform(0, 1.1) * usual.report.total_s, usual)
            done.append(run)
            ended = "identical" if run.identical else "DIFFERENT" if run.complete else f"NOT COMPLETE ({run.error})"
            times = f"detection {_s(run.detection_s)}, recovery {_s(run.recovery_s)}"
            print(f"{number + 1:4} {fault:16} {plan:18} {ended}, {times}", flush=True)
    prefills = [answer.report.prefill_s for answer in plain.values()]
    return {
        "benchmark": "chaos",
        "seed": seed,
        "runs": runs,
        "complete": sum(run.complete for run in done),
        "identical": sum(run.identical for run in done),
        "duplicates": sum(run.duplicates for run in done),
        "taken_over": sum(run.detection_s is not None for run in done),
        "detection_p95_s": _p95([run.detection_s for run in done]),
        "prefill_p95_s": _p95(prefills),
        "recovery_p95_s": _p95([run.recovery_s for run in done]),
    }


async def _one(laboratory: Laboratory, asked: Ask, plan: str, fault: str, after_s: float, usual: Answer) -> Run:
    in_use = await laboratory.healed()
    asking = asyncio.create_task(laboratory.ask(asked, plan))
    await asyncio.sleep(after_s)
    broke_s = time.monotonic()
    mend = await getattr(laboratory, fault)(in_use)
    answer = await asking
    await mend()
    same = list(answer.report.token_ids) == list(usual.report.token_ids) and answer.text == usual.text
    after = [broke_s, *(at_s for at_s in answer.pieces_at_s if at_s > broke_s)]
    faults = list(answer.report.faults)
    return Run(
        fault,
        complete=not answer.error,
        identical=same,
        duplicates=max(0, len(answer.report.token_ids) - len(usual.report.token_ids)),
        detection_s=max(one.silent_s for one in faults) if faults else None,
        recovery_s=max((late - early for early, late in pairwise(after)), default=None) if faults else None,
        error=answer.error,
    )


def questions() -> list[Ask]:
    """Those with long answers: descriptions."""
    found = []
    for scene, question in held_out(40 * QUESTIONS, 11):
        if " " in question.answer and len(found) < QUESTIONS:
            store = io.BytesIO()
            scene.image.save(store, "PNG")
            found.append((store.getvalue(), question.text))
    return found


def _place(plain: dict[tuple[int, str], Answer], answer: Answer) -> int:
    return next(place for (place, _), other in plain.items() if other is answer)


def _later(mend: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def mended() -> None:
        mend()

    return mended


def _signal(node: Node, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        node.process.send_signal(number)


def _free_ports(count: int) -> list[int]:
    """Returns ports that stay free while their node is down: below those that systems give out (from 32,768 on)."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in random.SystemRandom().sample(range(20_000, 32_000), 100 * count):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise OSError("no port is free")


def _p95(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.percentile(known, 95)), 3) if known else None


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="splitvlm-chaos-") as folder:
        result = asyncio.run(chaos(options.runs, options.seed, Path(folder)))
    print(json.dumps(result))
    sys.exit(result["identical"] < result["runs"])


if __name__ == "__main__":
    main()
