"""Attacks on a live cloud node from an attacker's own socket. After each of them a good client is served as before.

The attacker has what the attack needs: a way onto the network, a certificate of our authority (of a wrong role, or of a device
that turned bad), or a place between device and cloud that sees and changes every envelope (a gateway that ends TLS).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from cloud_node.settings import CloudLimits
from edge_node.cloud.session import CloudSession
from splitvlm.crypto.identity import Identity, Role
from splitvlm.domain import Conversation
from splitvlm.errors import ProtocolError, SplitvlmError
from splitvlm.host_port import host_and_port
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.rpc.final_status import FinalStatus
from splitvlm.rpc.limits import MAX_FRAME_BYTES
from splitvlm.wire.v1 import data_pb2 as pb
from splitvlm.wire.v1 import data_pb2_grpc
from tests.coding import encode
from tests.nodes import Cloud, Device, Keys, cloud_node, device, offer, until
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"
LIMITS = CloudLimits(max_sessions=4, max_sessions_per_device=2, max_new_tokens=16, max_payload_bytes=100_000)


@dataclass
class Scene:
    """A cloud node, a good device with its answer, and the keys that the attacker may draw from."""

    cloud: Cloud
    camera: Device
    keys: Keys
    answer: list[int]

    @contextlib.asynccontextmanager
    async def session(self, identity: Identity) -> AsyncIterator[CloudSession]:
        """An open session whose inside the attacker holds."""
        async with open_channel(self.cloud.address, identity, Role.CLOUD) as channel:
            session = await CloudSession.open(channel, "cloud node", self.cloud.compatibility, identity, [])
            yield session
            await session.close()

    async def is_well(self) -> None:
        await until(lambda: self.cloud.servicer.active.total() <= 1)
        again = await self.camera.ask("tokens/lossless", PICTURE, QUESTION, 8)
        assert again.token_ids == self.answer


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    model, keys = tiny_model("scenes-like"), Keys(tmp_path / "keys")
    async with (
        cloud_node(model, keys, limits=LIMITS) as cloud,
        device(model, cloud, keys.identity("edge-1", Role.EDGE)) as camera,
    ):
        answer = await camera.ask("tokens/lossless", PICTURE, QUESTION, 8)
        scene = Scene(cloud, camera, keys, answer.token_ids)
        yield scene
        await scene.is_well()


async def ended(session: CloudSession, kind: type[SplitvlmError], text: str) -> None:
    """The session ends with that error, and not by itself after a while."""
    async with asyncio.timeout(60):
        with contextlib.suppress(grpc.aio.AioRpcError):
            while isinstance(await session.call.read(), pb.Envelope):
                pass
        error = await session.why_ended()
    assert isinstance(error, kind)
    assert text in str(error)


def sealed(session: CloudSession, frame: pb.DeviceFrame) -> pb.Envelope:
    return pb.Envelope(sealed=session.stream._sealer.seal(frame.SerializeToString()))


CANCEL = pb.DeviceFrame(cancel=pb.Cancel())
Change = Callable[[list[pb.Envelope]], list[pb.Envelope]]


def changed(envelope: pb.Envelope, place: int) -> pb.Envelope:
    data = bytearray(envelope.sealed)
    data[place] ^= 1
    return pb.Envelope(sealed=bytes(data))


ON_THE_WAY: dict[str, Change] = {
    "replayed": lambda frames: [frames[0], frames[0]],
    "reordered": lambda frames: [frames[1], frames[0]],
    "dropped": lambda frames: frames[1:],
    "changed at its start": lambda frames: [changed(frames[0], 0)],
    "changed at its end": lambda frames: [changed(frames[0], -1)],
    "truncated": lambda frames: [pb.Envelope(sealed=frames[0].sealed[:-1])],
    "lengthened": lambda frames: [pb.Envelope(sealed=frames[0].sealed + b"x")],
    "emptied": lambda frames: [pb.Envelope(sealed=b"")],
}


@pytest.mark.parametrize("attack", ON_THE_WAY)
async def test_what_a_gateway_does_to_frames_ends_the_session(scene: Scene, attack: str) -> None:
    async with scene.session(scene.keys.identity("edge-2", Role.EDGE)) as session:
        frames = [sealed(session, CANCEL) for _ in range(3)]
        for envelope in ON_THE_WAY[attack](frames):
            await offer(session.call, envelope)
        await ended(session, ProtocolError, "did not open")
    assert scene.cloud.servicer.refused["protocol"] == 1


async def test_a_frame_of_another_session_or_from_the_cloud_itself_does_not_open(scene: Scene) -> None:
    identity = scene.keys.identity("edge-2", Role.EDGE)
    async with scene.session(identity) as one, scene.session(identity) as other:
        await one.call.write(sealed(other, CANCEL))
        await ended(one, ProtocolError, "did not open")
    async with scene.session(identity) as session:
        await session.call.write(sealed(session, pb.DeviceFrame(begin=pb.Begin(plan="nonsense", first=b"x"))))
        reflected = await session.call.read()
        while reflected.WhichOneof("body") != "sealed":
            reflected = await session.call.read()
        await session.call.write(reflected)
        await ended(session, ProtocolError, "did not open")


@pytest.mark.parametrize(
    "envelope",
    [
        pb.Envelope(),
        pb.Envelope(accepted=pb.Accepted()),
        pb.Envelope(open=pb.Open()),
        pb.Envelope(sealed=bytes(MAX_FRAME_BYTES + 1)),
    ],
    ids=["empty", "accepted", "a second open", "too long"],
)
async def test_a_message_that_has_no_place_ends_the_session(scene: Scene, envelope: pb.Envelope) -> None:
    async with scene.session(scene.keys.identity("edge-2", Role.EDGE)) as session:
        await session.call.write(envelope)
        await ended(session, ProtocolError, "no place")


HUGE = torch.zeros(4_000_000, dtype=torch.int64)
REQUESTS: dict[str, pb.Begin] = {
    "a size beyond the limit": pb.Begin(plan="tokens/lossless", payload_bytes=2**31, max_new_tokens=4),
    "no payload": pb.Begin(plan="tokens/lossless", max_new_tokens=4),
    "too many tokens": pb.Begin(plan="tokens/lossless", max_new_tokens=10_000, first=b"x"),
    "an unknown cut": pb.Begin(plan="../../etc/lossless", max_new_tokens=4, first=b"x"),
    "an unknown level": pb.Begin(plan="tokens/pickle", max_new_tokens=4, first=b"x"),
    "an unknown variant": pb.Begin(plan="tokens/lossless@w8", max_new_tokens=4, first=b"x"),
    "a level of pictures": pb.Begin(plan="tokens/jpeg75", max_new_tokens=4, first=b"x"),
    "no tensors": pb.Begin(plan="tokens/lossless", max_new_tokens=4, first=b"\x80\x04K\x01."),
    "a bomb": pb.Begin(plan="tokens/lossless", max_new_tokens=4, first=encode({"ids": HUGE}, "lossless")),
    "other tensors": pb.Begin(
        plan="tokens/lossless", max_new_tokens=4, first=encode({"hidden": torch.zeros(3, 5)}, "lossless")
    ),
    "a picture that is none": pb.Begin(plan="image/jpeg75", max_new_tokens=4, first=b"\xff\xd8\xff" * 9),
    "a picture that nobody sent": pb.Begin(
        plan="tokens/lossless", max_new_tokens=4, first=b"x", prefix=bytes(8), prefix_cached=True
    ),
    "given tokens beyond the vocabulary": pb.Begin(
        plan="tokens/lossless", max_new_tokens=4, first=b"x", resume_token_ids=[2**31]
    ),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_a_hostile_request_is_refused_and_its_session_goes_on(scene: Scene, request_: pb.Begin) -> None:
    async with scene.session(scene.keys.identity("edge-2", Role.EDGE)) as session:
        await session.stream.send(pb.DeviceFrame(begin=request_))
        while (frame := session.stream.open(await session.call.read())).WhichOneof("body") == "receipt":
            pass
        assert frame.WhichOneof("body") == "failure"
        assert frame.failure.code in ("usage", "protocol", "prefix-evicted")
        await session.stream.send(pb.DeviceFrame(begin=request_))
        assert isinstance(await session.call.read(), pb.Envelope)


async def test_more_than_was_declared_ends_the_session(scene: Scene) -> None:
    async with scene.session(scene.keys.identity("edge-2", Role.EDGE)) as session:
        begin = pb.Begin(plan="tokens/lossless", max_new_tokens=4, payload_bytes=10, first=b"12345")
        await session.stream.send(pb.DeviceFrame(begin=begin))
        await session.stream.send(pb.DeviceFrame(chunk=b"678901"))
        await ended(session, ProtocolError, "more than the payload")


@pytest.mark.parametrize("role", [Role.APP, Role.CLOUD, Role.ORCHESTRATOR])
async def test_a_valid_certificate_of_the_wrong_role_is_refused(scene: Scene, role: Role) -> None:
    identity = scene.keys.identity("stranger", role)
    async with open_channel(scene.cloud.address, identity, Role.CLOUD) as channel:
        call = data_pb2_grpc.DataStub(channel).Session()
        final = FinalStatus(call)
        await offer(call, pb.Envelope(open=pb.Open(compatibility=scene.cloud.compatibility)))
        error = await final.error()
        assert error is not None
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert scene.cloud.servicer.refused["permission-refused"] == 1


async def test_what_a_device_sent_is_kept_for_who_sealed_it(scene: Scene) -> None:
    """Behind a gateway that ends TLS all channels are the gateway's: who owns what is told by the handshake inside."""
    gateway, inside = scene.keys.identity("gateway", Role.EDGE), scene.keys.identity("edge-2", Role.EDGE)
    async with open_channel(scene.cloud.address, gateway, Role.CLOUD) as channel:
        session = await CloudSession.open(channel, "cloud node", scene.cloud.compatibility, inside, [])
        payload, _ = await scene.camera.engine.encode_image(PICTURE, "jpeg75")
        asked = conversation_to_wire(Conversation.about(QUESTION))
        begin = pb.Begin(plan="image/jpeg75", first=payload, conversation=asked, max_new_tokens=2, prefix=bytes(8))
        await session.stream.send(pb.DeviceFrame(begin=begin))
        while session.stream.open(await session.call.read()).WhichOneof("body") != "end":
            pass
        await session.close()
    assert list(scene.cloud.worker.runtime.prefix_cache._devices) == ["edge-2"]


async def test_silence_and_floods_hold_no_more_than_their_share(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow loris: sessions that open and say nothing; and more of them than a device may have."""
    monkeypatch.setattr("cloud_node.frontend.servicer.HANDSHAKE_TIMEOUT_S", 3.0)  # all have come by then
    identity = scene.keys.identity("edge-2", Role.EDGE)
    async with open_channel(scene.cloud.address, identity, Role.CLOUD) as channel:
        calls: list[Any] = [data_pb2_grpc.DataStub(channel).Session() for _ in range(40)]
        ends = [asyncio.create_task(call.code()) for call in calls]
        await until(lambda: sum(end.done() for end in ends) >= 40 - LIMITS.max_sessions_per_device, 30)
        assert scene.cloud.servicer.active["edge-2"] <= LIMITS.max_sessions_per_device
        good = await scene.camera.ask("tokens/lossless", PICTURE, QUESTION, 8)
        assert good.token_ids == scene.answer
        codes = await asyncio.gather(*ends)
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 40 - LIMITS.max_sessions_per_device
    assert codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) == LIMITS.max_sessions_per_device


@pytest.mark.parametrize(
    "noise", [b"", b"\0" * 4096, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\x01" * 9999]
)
async def test_bytes_that_are_no_tls_hurt_nobody(scene: Scene, noise: bytes) -> None:
    host, port = host_and_port(scene.cloud.address)
    connections = [await asyncio.open_connection(host, port) for _ in range(30)]
    for _, writer in connections:
        writer.write(noise)
    await scene.is_well()
    for _, writer in connections:
        writer.close()


async def test_no_question_picture_or_key_is_in_the_log(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="splitvlm")
    await scene.camera.ask("image/lossless", PICTURE, "a question that nobody else may read", 4)
    with pytest.raises(SplitvlmError):
        await scene.camera.ask("image/lossless", PICTURE, "another question " * 2_000, 4)
    said = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert "question" not in said.replace("test_no_question", "")
