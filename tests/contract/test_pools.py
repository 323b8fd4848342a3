"""What every pool keeps (cloud_node/pools/protocol.py), wherever its workers run. A new pool is one more entry of POOLS.

Each pool is started once, for all tests: a worker in a process of its own takes seconds.

A test is both sides of a pool: the front end, which hands bytes over unread, and the device, which alone can open them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import pytest
import pytest_asyncio

from cloud_node.pools.local import LocalPool
from cloud_node.pools.protocol import Pool
from cloud_node.pools.ray import RayPool
from cloud_node.settings import CloudLimits, CloudSettings, PoolChoice
from cloud_node.worker.process import WorkerProcess
from cloud_node.worker.worker import EngineWorker
from edge_node.node import compatibility_of
from splitvlm.codec.codec import Codec
from splitvlm.codec.picture import encode_picture
from splitvlm.crypto.handshake import DeviceHandshake, Reply
from splitvlm.crypto.identity import Identity, Role
from splitvlm.crypto.sealing import Opener, Sealer
from splitvlm.domain import DEVICE, IMAGE, Conversation
from splitvlm.errors import HandshakeRefused, ProtocolError, SplitvlmError
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.prompt import Prompt
from splitvlm.node.lifecycle import background
from splitvlm.rpc.compatibility import session_context
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.rpc.sealed_stream import SealedStream
from splitvlm.settings import ModelChoice, Security
from splitvlm.wire.v1 import data_pb2 as pb
from tests.nodes import Keys, until
from tests.samples import PICTURE, tiny_model

MODEL = "scenes-like"
NUM_TOKENS = 6
QUESTION = "How many cells are infected?"
LIMITS = CloudLimits(max_new_tokens=32)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextlib.asynccontextmanager
async def local(keys: Keys, identity: Identity) -> AsyncIterator[Pool]:
    pool = LocalPool(EngineWorker(cloud_part(), Codec(), agreed(), identity, LIMITS))
    yield pool
    assert pool.close()


@contextlib.asynccontextmanager
async def ray(keys: Keys, identity: Identity) -> AsyncIterator[Pool]:
    settings = CloudSettings(
        model=ModelChoice(name=tiny_model(MODEL), threads=1),
        cuts=["image"],
        pool=PoolChoice(kind="ray"),
        limits=LIMITS,
        security=Security(keys=keys.folder / identity.node),
    )
    pool = RayPool(settings, identity, WorkerProcess)
    await pool.start()
    yield pool
    assert pool.close()


POOLS: dict[str, Callable[[Keys, Identity], contextlib.AbstractAsyncContextManager[Pool]]] = {
    "local": local,
    "ray": ray,
}
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed.")
MARKS = {"ray": (needs_ray, pytest.mark.ray)}


@cache
def cloud_part() -> Any:
    return load_cloud(tiny_model(MODEL), [IMAGE], threads=1)


@cache
def device_part() -> Any:
    return load_device(tiny_model(MODEL), [DEVICE], threads=1)


@cache
def agreed() -> pb.Compatibility:
    return compatibility_of(cloud_part().spec, Codec(), "float32")


@cache
def undivided() -> list[int]:
    return list(device_part().generate(Prompt.about(PICTURE, QUESTION), NUM_TOKENS))


class Device:
    """A device's end of a session, and the stream that the front end would hand to a worker."""

    def __init__(self, identity: Identity, compatibility: pb.Compatibility | None = None) -> None:
        self.compatibility = compatibility or agreed()
        self._handshake = DeviceHandshake(identity, session_context(self.compatibility))
        self.to_worker: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.to_device: asyncio.Queue[bytes] = asyncio.Queue()
        self.crossed: list[bytes] = []

    async def read(self) -> bytes | None:
        return await self.to_worker.get()

    async def write(self, envelope: bytes) -> None:
        self.crossed.append(envelope)
        self.to_device.put_nowait(envelope)

    async def open(self) -> None:
        hello = self._handshake.hello()
        offer = pb.Handshake(
            ephemeral_public=hello.ephemeral_public, certificate_der=hello.certificate_der, signature=hello.signature
        )
        await self._send(pb.Envelope(open=pb.Open(compatibility=self.compatibility, handshake=offer)))
        answer = pb.Envelope.FromString(await self.to_device.get()).accepted.handshake
        keys = self._handshake.finish(Reply(answer.ephemeral_public, answer.certificate_der, answer.signature))
        sealer, opener = Sealer.of_device(keys), Opener.of_device(keys)
        self._stream: SealedStream[pb.DeviceFrame, pb.CloudFrame] = SealedStream(
            self._send, sealer, opener, pb.CloudFrame
        )

    async def say(self, **body: Any) -> None:
        await self._stream.send(pb.DeviceFrame(**body))

    async def hear(self) -> pb.CloudFrame:
        return self._stream.open(pb.Envelope.FromString(await self.to_device.get()))

    async def ask(self, **changes: Any) -> list[int]:
        await self.say(begin=begin(**changes))
        token_ids = list[int]()
        while (frame := await self.hear()).WhichOneof("body") != "end":
            assert frame.WhichOneof("body") in ("receipt", "token"), frame
            if frame.WhichOneof("body") == "token":
                token_ids.append(frame.token.id)
        return token_ids

    async def _send(self, envelope: pb.Envelope) -> None:
        self.crossed.append(envelope.SerializeToString())
        self.to_worker.put_nowait(envelope.SerializeToString())


@cache
def picture_payload() -> bytes:
    return encode_picture(device_part().picture(PICTURE), "lossless")


def begin(**changes: Any) -> pb.Begin:
    conversation = conversation_to_wire(Conversation.about(QUESTION))
    asked = {"plan": "image/lossless", "first": picture_payload(), "max_new_tokens": NUM_TOKENS}
    return pb.Begin(conversation=conversation, **(asked | changes))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("pools") / "keys")


@pytest.fixture(scope="module")
def cloud(keys: Keys) -> Identity:
    return keys.identity("cloud-1", Role.CLOUD)


@pytest.fixture(scope="module")
def edge(keys: Keys) -> Identity:
    return keys.identity("edge-1", Role.EDGE)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[pytest.param(name, marks=MARKS.get(name, ())) for name in POOLS]
)
async def pool(request: pytest.FixtureRequest, keys: Keys, cloud: Identity) -> AsyncIterator[Pool]:
    async with POOLS[request.param](keys, cloud) as pool, background(pool.watch()):
        yield pool


@contextlib.asynccontextmanager
async def session(pool: Pool, device: Device) -> AsyncIterator[asyncio.Task[None]]:
    """A worker that serves the device; cancelled at the end, as a front end does with a call that went away."""
    serving = asyncio.create_task(pool.worker_for("edge-1").serve("edge-1", device))
    try:
        yield serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def ended(serving: asyncio.Task[None]) -> None:
    async with asyncio.timeout(60):
        await serving


async def test_a_session_is_served_until_the_device_closes(pool: Pool, edge: Identity) -> None:
    device = Device(edge)
    async with session(pool, device) as serving:
        await device.open()
        for _ in range(2):
            assert await device.ask() == undivided()
        device.to_worker.put_nowait(None)
        await ended(serving)


async def test_sessions_run_beside_one_another(pool: Pool, edge: Identity) -> None:
    devices = [Device(edge) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for device in devices:
            await stack.enter_async_context(session(pool, device))
            await device.open()
        assert await asyncio.gather(*(device.ask() for device in devices)) == [undivided()] * 3


async def test_what_a_front_end_sees_can_be_read_by_nobody(pool: Pool, edge: Identity) -> None:
    device = Device(edge)
    async with session(pool, device):
        await device.open()
        await device.ask()
    seen = b"".join(device.crossed)
    assert len(seen) > len(picture_payload())
    assert QUESTION.encode() not in seen
    assert picture_payload()[:64] not in seen


OPENINGS: dict[str, tuple[bytes, type[SplitvlmError]]] = {
    "nothing": (b"", ProtocolError),
    "no envelope": (b"\xff" * 40, ProtocolError),
    "a sealed frame": (pb.Envelope(sealed=bytes(40)).SerializeToString(), ProtocolError),
    "other weights": (pb.Envelope(open=pb.Open()).SerializeToString(), HandshakeRefused),
}


@pytest.mark.parametrize(("opening", "kind"), OPENINGS.values(), ids=OPENINGS)
async def test_an_opening_that_is_invalid_ends_its_session_with_an_error_of_ours(
    pool: Pool, edge: Identity, opening: bytes, kind: type[SplitvlmError]
) -> None:
    device = Device(edge)
    async with session(pool, device) as serving:
        device.to_worker.put_nowait(opening)
        with pytest.raises(kind):
            await ended(serving)
    device = Device(edge)
    async with session(pool, device):
        await device.open()
        assert await device.ask() == undivided()


@pytest.mark.parametrize("data", [b"\xff" * 40, pb.Envelope(sealed=bytes(64)).SerializeToString()])
async def test_bytes_that_are_not_the_next_frame_end_the_session(pool: Pool, edge: Identity, data: bytes) -> None:
    device = Device(edge)
    async with session(pool, device) as serving:
        await device.open()
        device.to_worker.put_nowait(data)
        with pytest.raises(ProtocolError):
            await ended(serving)


async def test_a_device_that_goes_away_before_it_opens_is_an_error_of_ours(pool: Pool, edge: Identity) -> None:
    device = Device(edge)
    async with session(pool, device) as serving:
        device.to_worker.put_nowait(None)
        with pytest.raises(ProtocolError, match="begins with the message"):
            await ended(serving)


async def test_a_session_that_is_cut_off_stops_and_others_are_served(pool: Pool, edge: Identity) -> None:
    cut_off, other = Device(edge), Device(edge)
    async with session(pool, other):
        await other.open()
        async with session(pool, cut_off):
            await cut_off.open()
            await cut_off.say(begin=begin(max_new_tokens=32))
            while (await cut_off.hear()).WhichOneof("body") != "token":
                pass
        received = cut_off.to_device.qsize()
        assert await other.ask() == undivided()
        assert cut_off.to_device.qsize() == received


async def test_a_device_that_does_not_read_ends_its_session(pool: Pool, edge: Identity) -> None:
    class Deaf(Device):
        async def write(self, envelope: bytes) -> None:
            if len(self.crossed) > 2:
                raise TimeoutError
            await super().write(envelope)

    device = Deaf(edge)
    async with session(pool, device) as serving:
        await device.open()
        await device.say(begin=begin())
        await until(lambda: device.to_worker.empty())
        await device.say(cancel=pb.Cancel())
        with pytest.raises(TimeoutError):
            await ended(serving)


async def test_limits_change_for_sessions_that_open_later(pool: Pool, edge: Identity) -> None:
    before = Device(edge)
    async with session(pool, before):
        await before.open()
        pool.use(CloudLimits(max_new_tokens=1))
        try:
            async with asyncio.timeout(60):
                while await is_served(pool, Device(edge)):  # a worker elsewhere hears of it a moment later
                    pass
            assert await before.ask() == undivided()
        finally:
            pool.use(LIMITS)
    async with asyncio.timeout(60):
        while not await is_served(pool, Device(edge)):
            pass


async def is_served(pool: Pool, device: Device) -> bool:
    """Whether another session may ask for NUM_TOKENS tokens."""
    async with session(pool, device):
        await device.open()
        await device.say(begin=begin())
        frame = await device.hear()
    assert frame.WhichOneof("body") != "failure" or frame.failure.code == "usage"
    return frame.WhichOneof("body") != "failure"


async def test_an_idle_pool_has_workers_and_no_queue(pool: Pool) -> None:
    assert pool.load.num_workers >= 1
    await until(lambda: pool.load.mean_queue_s == 0)
