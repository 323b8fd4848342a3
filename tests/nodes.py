"""Real nodes inside the test process: grpc.aio servers on port 0 with mutual TLS and minted certificates."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
from PIL import Image

from cloud_node.engine.lane import Lane
from cloud_node.engine.torch_engine import TorchEngine
from cloud_node.frontend.servicer import SERVICE, DataServicer
from cloud_node.pools.local import LocalPool
from cloud_node.settings import CloudLimits
from cloud_node.worker.worker import EngineWorker
from edge_node.answering.question import PlannedQuestion
from edge_node.answering.report import RequestReport
from edge_node.answering.run import AnswerRun, CloudNodes, Fallbacks
from edge_node.cloud.link import CloudLink
from edge_node.engine import DeviceEngine
from edge_node.node import compatibility_of
from edge_node.privacy import EVERYTHING_MAY_LEAVE, PrivacyDoor
from splitvlm.bundle import open_bundle
from splitvlm.crypto.authority import init_authority, issue
from splitvlm.crypto.identity import Identity, Role, load_identity
from splitvlm.domain import DEVICE, GREEDY, Plan, Sampling
from splitvlm.model.batch.decoder import BatchedDecoder
from splitvlm.model.loading import load_cloud, load_device, read_spec
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import data_pb2


class Keys:
    """An authority of its own, and identities from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        init_authority(folder)

    def identity(self, name: str, role: Role) -> Identity:
        return load_identity(issue(self.folder, name, role))


@dataclass
class Cloud:
    address: str
    servicer: DataServicer
    worker: EngineWorker
    compatibility: data_pb2.Compatibility

    @property
    def engine_lane(self) -> Lane:
        """The thread in which the engine's steps run, for tests that stop it."""
        engine = self.worker.runtime.engine
        assert isinstance(engine, TorchEngine)
        return engine.lane

    @property
    def decoder(self) -> BatchedDecoder:
        """What moves running answers on, for tests that stop it."""
        engine = self.worker.runtime.engine
        assert isinstance(engine, TorchEngine)
        return engine._decoder


@lru_cache(maxsize=2)
def cloud_part(model: str) -> CloudPart:
    """Loads a part for every cut once for several nodes: it does not change while it serves."""
    return load_cloud(model, [cut for cut in read_spec(model).cuts() if cut != DEVICE])


@lru_cache(maxsize=2)
def device_part(model: str) -> DevicePart:
    """Loads the whole model once for several devices: it does not change while it answers."""
    return load_device(model, [DEVICE])


@contextlib.asynccontextmanager
async def cloud_node(
    model: str, keys: Keys, *, name: str = "cloud-1", limits: CloudLimits | None = None
) -> AsyncIterator[Cloud]:
    """A cloud node that serves every cut of the model."""
    spec, part = read_spec(model), cloud_part(model)
    codec = open_bundle(model).codec
    agreed, identity = compatibility_of(spec, codec, "float32"), keys.identity(name, Role.CLOUD)
    worker = EngineWorker(part, codec, agreed, identity, limits or CloudLimits())
    servicer = DataServicer(LocalPool(worker), limits or CloudLimits(), plaintext=False)
    server = NodeServer(identity, [SERVICE])
    server.grpc.add_generic_rpc_handlers((servicer.handler(),))
    address = await server.listen("127.0.0.1:0")
    await server.set_ready()
    try:
        yield Cloud(address, servicer, worker, agreed)
    finally:
        await server.drain(1.0)
        worker.close()


@contextlib.asynccontextmanager
async def device(model: str, cloud: Cloud | str, identity: Identity) -> AsyncIterator[Device]:
    """A device part with a link to the cloud node, which may be a process at an address."""
    spec, codec = read_spec(model), open_bundle(model).codec
    engine = DeviceEngine(device_part(model), codec)
    address = cloud if isinstance(cloud, str) else cloud.address
    link = CloudLink(address, compatibility_of(spec, codec, "float32"), identity, [str(cut) for cut in spec.cuts()])
    try:
        yield Device(engine, link)
    finally:
        engine.close()
        await link.close()


@dataclass
class Device:
    engine: DeviceEngine
    link: CloudLink

    def run(
        self,
        plan: str,
        prompt: Prompt,
        tokens: int = 16,
        *,
        prefix_names: tuple[bytes, ...] = (),
        standby: Sequence[CloudLink] = (),
        on_fault: Callable[[CloudLink], None] = lambda _link: None,
        privacy: PrivacyDoor = EVERYTHING_MAY_LEAVE,
        sampling: Sampling = GREEDY,
        **fallbacks: Any,
    ) -> AnswerRun:
        """Returns an answer that begins when its first token is asked for. `fallbacks` are those of Fallbacks."""
        planned = PlannedQuestion(Plan.parse(plan), prompt, tokens, prefix_names, sampling)
        clouds = CloudNodes((self.link, *standby), on_fault)
        return AnswerRun(self.engine, privacy, planned, clouds, Fallbacks(**fallbacks))

    async def finish(self, run: AnswerRun) -> RequestReport:
        async for _ in run:
            pass
        return run.report

    async def ask(
        self, plan: str, image: Image.Image, question: str, tokens: int = 16, *, prefix_cache: bool = False, **more: Any
    ) -> RequestReport:
        return await self.ask_with(plan, Prompt.about(image, question), tokens, prefix_cache=prefix_cache, **more)

    async def ask_with(
        self, plan: str, prompt: Prompt, tokens: int = 16, *, prefix_cache: bool = False, **more: Any
    ) -> RequestReport:
        if prefix_cache:
            more["prefix_names"] = self.link.prefixes.names_of(prompt.images)
        return await self.finish(self.run(plan, prompt, tokens, **more))


async def offer(call: Any, message: Any) -> None:
    """Writes a message on a stream that the peer may have refused already: which of the two comes first is chance."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(message)


async def until(condition: object, timeout_s: float = 60.0) -> None:
    """Poll a condition that another task makes true; fails instead of hanging."""
    assert callable(condition)
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  what changes it is another process or a library
            await asyncio.sleep(0.01)
