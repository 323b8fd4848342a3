"""Malicious clients of a cloud node and an orchestrator, as a process of their own with valid certificates of edge nodes.

    python -m tests.e2e.malice --keys KEYS/mallory-1 --cloud HOST:PORT --model NAME [--orchestrator HOST:PORT]

They open sessions by the real handshake and misbehave until SIGTERM, or for so many rounds. The last line is JSON: how often
each attack was made.
Every client is refused or outlasted sooner or later: what counts is how the nodes and other clients fare meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import grpc
import torch
from PIL import Image

from edge_node.cloud.session import CloudSession
from edge_node.node import compatibility_of
from splitvlm.bundle import open_bundle
from splitvlm.crypto.identity import Identity, Role, load_identity
from splitvlm.domain import Conversation
from splitvlm.errors import SplitvlmError
from splitvlm.model.loading import read_spec
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.wire.v1 import control_pb2, control_pb2_grpc, data_pb2
from tests.coding import encode

SIDES = (1_400, 6_000)  # pixels, of pictures that are some hundred bytes: many have room one by one, and one never has
SCANS = 800
INSTANCE = "0123456789abcdef"
PAUSE_S = 0.2  # between an attack's attempts: a flood of cheap calls is another test's
EXPECTED = (SplitvlmError, grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, TimeoutError, OSError)

ASKED = conversation_to_wire(Conversation.about("How many?"))


@dataclass
class Attacker:
    """One valid certificate, and what is attacked with it."""

    identity: Identity
    cloud: str
    orchestrator: str | None
    compatibility: data_pb2.Compatibility
    vision_hidden: int
    lm_hidden: int
    held_s: float  # how long what was taken is held on to
    rounds: int  # of each attack; 0: without end
    only: str | None  # one attack's name
    made: Counter[str] = field(default_factory=Counter)

    async def keep_on(self, attack: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        while not stop.is_set() and (not self.rounds or self.made[attack.__name__] < self.rounds):
            with contextlib.suppress(*EXPECTED):
                await attack()
            self.made[attack.__name__] += 1
            await asyncio.sleep(PAUSE_S)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[CloudSession]:
        async with open_channel(self.cloud, self.identity, Role.CLOUD) as channel:
            session = await CloudSession.open(channel, "cloud node", self.compatibility, self.identity, [])
            try:
                yield session
            finally:
                await session.close()

    async def ask(self, **begin: object) -> None:
        """One request, and its frames until the last."""
        async with self.session() as session:
            await session.stream.send(data_pb2.DeviceFrame(begin=data_pb2.Begin(max_new_tokens=1, **begin)))  # type: ignore[arg-type]
            async with asyncio.timeout(self.held_s):
                while session.stream.open(await session.read()).WhichOneof("body") in ("receipt", "token"):
                    pass

    async def one_huge_tile(self) -> None:
        """Issue E, row 2: any square number of patches."""
        side = int(((1 << 24) / self.vision_hidden) ** 0.5) // 4 * 4
        features = {"hidden": torch.zeros(1, side * side, self.vision_hidden), "ids": torch.tensor([5])}
        await self.ask(plan="vision:3/lossless", first=encode(features, "lossless"))

    async def features_that_expand(self) -> None:
        """Row 6: zeros, which zstandard makes a few bytes of."""
        features = {"hidden": torch.zeros((1 << 23) // self.lm_hidden, self.lm_hidden), "ids": torch.tensor([5])}
        await self.ask(plan="tokens/lossless", first=encode(features, "lossless"))

    async def pictures_of_many_pixels(self) -> None:
        """Row 6: as many sessions as a device may have, each with a picture of some hundred bytes."""
        pictures = [coded(side, "WEBP", lossless=True) for side in SIDES]
        asks = (self.ask(plan="image/lossless", first=pictures[n % 2], conversation=ASKED) for n in range(8))
        await asyncio.gather(*asks, return_exceptions=True)

    async def picture_of_many_scans(self) -> None:
        """Row 3: a progressive JPEG whose last scan is repeated."""
        await self.ask(
            plan="image/jpeg75",
            first=many_scans(256, SCANS),
            conversation=ASKED,
        )

    async def declared_and_not_sent(self) -> None:
        """Row 12: large payloads of which a few bytes come."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(7):
                session = await stack.enter_async_context(self.session())
                begin = data_pb2.Begin(
                    plan="tokens/lossless", max_new_tokens=1, payload_bytes=64 << 20, first=b"x" * 48
                )
                await session.stream.send(data_pb2.DeviceFrame(begin=begin))
            await asyncio.sleep(self.held_s)

    async def sent_and_not_ended(self) -> None:
        """Row 12: an upload that is large and never complete."""
        async with self.session() as session:
            begin = data_pb2.Begin(plan="tokens/lossless", max_new_tokens=1, payload_bytes=60 << 20, first=b"x")
            await session.stream.send(data_pb2.DeviceFrame(begin=begin))
            for _ in range(900):
                await session.stream.send(data_pb2.DeviceFrame(chunk=bytes(64_000)))
            await asyncio.sleep(self.held_s)

    async def plan_streams_and_beats(self) -> None:
        """Row 1: many streams of plan tables, and heartbeats without a pause."""
        assert self.orchestrator is not None
        node = self.identity.node
        async with open_channel(self.orchestrator, self.identity, Role.ORCHESTRATOR) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            with contextlib.suppress(*EXPECTED):
                await stub.Register(
                    control_pb2.Registration(node=node, role="edge", model="m", weights_hash="w", instance=INSTANCE)
                )
            watch = control_pb2.WatchRequest(node=node, instance=INSTANCE)
            streams = [stub.WatchPlans(watch) for _ in range(100)]
            reading = [asyncio.ensure_future(stream.read()) for stream in streams]
            try:
                for _ in range(200):
                    with contextlib.suppress(*EXPECTED):
                        await stub.Heartbeat(control_pb2.HeartbeatRequest(node=node, instance=INSTANCE), timeout=5)
            finally:
                for stream in streams:
                    stream.cancel()
                await asyncio.gather(*reading, return_exceptions=True)

    def attacks(self) -> list[Callable[[], Awaitable[None]]]:
        of_cloud = [
            self.one_huge_tile,
            self.features_that_expand,
            self.pictures_of_many_pixels,
            self.picture_of_many_scans,
            self.declared_and_not_sent,
            self.sent_and_not_ended,
        ]
        known = [*of_cloud, self.plan_streams_and_beats] if self.orchestrator else of_cloud
        return [attack for attack in known if self.only in (None, attack.__name__)]


@cache
def coded(side: int, kind: str, **options: object) -> bytes:
    store = io.BytesIO()
    Image.new("RGB", (side, side), (90, 20, 30)).save(store, kind, **options)
    return store.getvalue()


def many_scans(side: int, scans: int) -> bytes:
    data = coded(side, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


async def attack(attackers: list[Attacker], stop: asyncio.Event) -> dict[str, int]:
    """Each attack of each attacker, over and over until `stop` or the last round; how often each was made."""
    stopping = asyncio.create_task(stop.wait())
    attacking = asyncio.gather(*(one.keep_on(made, stop) for one in attackers for made in one.attacks()))
    await asyncio.wait([stopping, attacking], return_when=asyncio.FIRST_COMPLETED)
    attacking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await attacking  # an attack that failed by itself is an error here
    stopping.cancel()
    return dict(sum((one.made for one in attackers), Counter[str]()))


async def run(options: argparse.Namespace) -> dict[str, int]:
    spec, stop = read_spec(options.model), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    agreed = compatibility_of(spec, open_bundle(options.model).codec, "float32")
    attackers = [
        Attacker(
            *(load_identity(keys), options.cloud, options.orchestrator, agreed, spec.vision_hidden, spec.lm_hidden),
            *(options.held, options.rounds, options.only),
        )
        for keys in options.keys
    ]
    print("ready", flush=True)
    return await attack(attackers, stop)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keys", type=Path, nargs="+", required=True)
    parser.add_argument("--cloud", required=True)
    parser.add_argument("--orchestrator")
    parser.add_argument("--model", required=True)
    parser.add_argument("--held", type=float, default=20.0, help="seconds that memory and sessions are held on to")
    parser.add_argument("--only", help="the name of one attack; all otherwise")
    parser.add_argument("--rounds", type=int, default=0, help="of each attack; 0: until SIGTERM")
    print(json.dumps({"attacks": asyncio.run(run(parser.parse_args()))}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
