"""The laboratory of chaos.py and soak.py: real processes, a link emulator before each cloud node, and what can break.

An orchestrator, two cloud nodes and a device that could hold the whole embedded model. The second cloud node's log is on a full
disk (/dev/full) all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from splitvlm.crypto.identity import Role
from splitvlm.domain import GREEDY, Conversation, Sampling
from splitvlm.errors import SplitvlmError
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.traces import Trace
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.scenes import held_out
from splitvlm.tools.launcher import Node
from splitvlm.wire.v1 import local_pb2 as pb
from tests.forked import ForkedLauncher

UPLINK_BPS, SLOW_BPS, DELAY_S = 20e6, 64e3, 0.01
SLOWDOWN = 3.0  # EMULATION of a weaker device: the faults need time to happen in
CUTS = ("image", "vision:3", "tokens", "lm:2")
QUESTIONS = 12
ANSWER_TIMEOUT_S = 60.0
HEALED_TIMEOUT_S = 120.0
FULL_DISK = Path("/dev/full")


@dataclass(frozen=True)
class Ask:
    """Holds what an application asks, with the files of its images."""

    conversation: Conversation
    images: tuple[bytes, ...]


@dataclass
class Answer:
    text: str = ""
    report: pb.RequestReport = field(default_factory=pb.RequestReport)
    pieces_at_s: list[float] = field(default_factory=list)
    error: str = ""


class Laboratory:
    """`async with Laboratory(folder) as laboratory:` Everything that was started or broken is stopped at its end."""

    NUM_CLOUDS: ClassVar[int] = 2
    FAULTS: ClassVar[tuple[str, ...]] = (
        "kill",
        "stop",
        "reset",
        "half_open",
        "slow",
        "no_cloud",
        "no_orchestrator",
        "suspend_device",
    )
    """Names of methods, each of which breaks something."""

    def __init__(
        self,
        folder: Path,
        *,
        model: str = "scenes",
        cuts: Sequence[str] = CUTS,
        slowdown: float = SLOWDOWN,
        prefix_cache_s: float = 0.0,
        limits: Mapping[str, object] | None = None,
    ) -> None:
        """Cloud nodes cache prefixes for `prefix_cache_s`; for 0 devices do not ask them to. `limits` are theirs."""
        self.launcher = ForkedLauncher(folder)
        self._model = {"name": model, "threads": 1}
        self._cuts = list(cuts)
        self._slowdown = slowdown
        self._prefix_cache_s = prefix_cache_s
        self._limits = dict(limits or {})
        self._stack = contextlib.AsyncExitStack()
        self._orchestrator_port, *self._ports = _free_ports(1 + self.NUM_CLOUDS)
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
        planning = {"cuts": [*self._cuts, "device"], "prefix_cache": self._prefix_cache_s > 0}
        self.edge = await self.launcher.start(
            "edge",
            {"orchestrator": self.orchestrator.address, "model": self._model, "planning": planning}
            | {"emulation": {"slowdown": self._slowdown}},
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
        settings = self.cloud_settings(number) | {"advertise": address}
        self.clouds[address] = await self.launcher.start("cloud", settings, FULL_DISK if number else None)

    def cloud_settings(self, number: int) -> dict[str, object]:
        """Returns what the configuration file of a cloud node says."""
        if self._prefix_cache_s:
            self._limits["prefix_cache_s"] = self._prefix_cache_s
        return {
            "node": f"cloud-{number + 1}",
            "listen": f"127.0.0.1:{self._ports[number]}",
            "orchestrator": self.orchestrator.address,
            "model": self._model,
            "cuts": self._cuts,
            "limits": self._limits,
        }

    async def healed(self) -> str:
        """Wait until the device has both cloud nodes again; the address of the one in use."""
        async with asyncio.timeout(HEALED_TIMEOUT_S):
            while True:
                status = await self.client.status()
                if status.cloud_reachable and {status.cloud_address, *status.standby} == set(self.links):
                    return str(status.cloud_address)
                await asyncio.sleep(0.05)

    async def ask(self, asked: Ask, plan: str, sampling: Sampling = GREEDY) -> Answer:
        answer, drawn = Answer(), _drawing(sampling)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                async for message in self.client.ask(asked.conversation, asked.images, plan=plan, **drawn):
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


def questions(number: int = QUESTIONS) -> list[Ask]:
    """Returns the first so many of those with long answers, descriptions: every second in a second turn, about two images."""
    descriptions = (asked for asked in held_out(80 * number, 11) if " " in asked[1].answer)
    asks: list[Ask] = []
    for index, (scene, question) in enumerate(islice(descriptions, number)):
        conversation = Conversation.about(question.text)
        images: tuple[bytes, ...] = (_png(scene.image),)
        if index % 2:
            conversation, images = conversation.then(question.answer, question.text, 1), (asks[-1].images[0], *images)
        asks.append(Ask(conversation, images))
    return asks


def _png(image: Image.Image) -> bytes:
    store = io.BytesIO()
    image.save(store, "PNG")
    return store.getvalue()


def _drawing(sampling: Sampling) -> dict[str, Any]:
    """Returns the arguments of `EdgeClient.ask` that ask for this sampling."""
    return {"temperature": sampling.temperature, "seed": sampling.seed} if sampling.draws else {}


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
