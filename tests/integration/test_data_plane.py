"""The data plane between a real device part and a real cloud node: who gets in, what is refused, what is freed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from cloud_node.settings import CloudLimits
from edge_node.cloud.link import CloudLink
from edge_node.cloud.session import CloudSession
from splitvlm.crypto.identity import Role
from splitvlm.domain import Conversation, Plan
from splitvlm.errors import (
    CapacityError,
    HandshakeRefused,
    PeerUnavailable,
    ProtocolError,
    SplitvlmError,
    UsageError,
)
from splitvlm.model.prompt import Prompt
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.wire.v1 import data_pb2 as pb
from splitvlm.wire.v1 import data_pb2_grpc
from tests.nodes import Cloud, Device, Keys, cloud_node, device, until
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"
REQUESTS_AT_ONCE = (
    100  # that they may follow one another whatever the timing: tests/unit/cloud_node/worker/test_session.py
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def model() -> str:
    return tiny_model("scenes-like")


_named = iter(range(10_000))


def fresh(prefix: str) -> str:
    return f"{prefix}-{next(_named)}"


@pytest.fixture
async def cloud(model: str, keys: Keys) -> AsyncIterator[Cloud]:
    limits = CloudLimits(max_sessions=3, max_sessions_per_device=2, max_new_tokens=64)
    async with cloud_node(model, keys, name=fresh("cloud"), limits=limits) as node:
        yield node


@pytest.fixture
async def camera(model: str, keys: Keys, cloud: Cloud) -> AsyncIterator[Device]:
    async with device(model, cloud, keys.identity(fresh("edge"), Role.EDGE)) as node:
        yield node


async def test_every_codec_level_gives_an_answer(camera: Device) -> None:
    for plan in (
        "image/lossless",
        "image/jpeg75",
        "image/webp50",
        "tokens/int8",
        "tokens/int2",
        "vision:1/int4",
        "lm:1/int6",
    ):
        report = await camera.ask(plan, PICTURE, QUESTION, tokens=4)
        assert 1 <= len(report.token_ids) <= 4
        assert report.exchange.bytes_sent > 0
        assert report.total_s >= report.first_token_s > 0


async def test_one_session_serves_many_requests(camera: Device, cloud: Cloud) -> None:
    first = await camera.ask("tokens/lossless", PICTURE, QUESTION)
    plan_bytes = len(b"tokens/lossless") + 2 + 2  # and max_new_tokens
    for _ in range(3):
        later = await camera.ask("tokens/lossless", PICTURE, QUESTION)
        assert later.token_ids == first.token_ids
        assert later.exchange.bytes_sent == first.exchange.bytes_sent - plan_bytes, "the plan is known by then"
    assert cloud.servicer.active.total() == 1


@pytest.mark.parametrize("cut", ["image", "vision:1", "tokens", "lm:1"])
async def test_requests_follow_one_another_at_once(camera: Device, keys: Keys, cloud: Cloud, cut: str) -> None:
    """Each begins when the last frame of the one before is read, and not a moment later."""
    if cut == "image":
        payload, _ = await camera.engine.encode_image(PICTURE, "jpeg75")
    else:
        plan = Plan.parse(f"{cut}/int8")
        run, _ = await camera.engine.begin(Prompt.about(PICTURE, QUESTION), plan)
        payload, _ = await camera.engine.encode((await camera.engine.tile(run, 0))[0], plan)
    level = "jpeg75" if cut == "image" else "int8"
    conversation = conversation_to_wire(Conversation.about(QUESTION)) if cut == "image" else None
    begin = pb.Begin(plan=f"{cut}/{level}", first=payload, max_new_tokens=1, conversation=conversation)
    identity = keys.identity(fresh("edge"), Role.EDGE)
    async with open_channel(cloud.address, identity, Role.CLOUD) as channel:
        session = await CloudSession.open(channel, "cloud node", cloud.compatibility, identity, [])
        for _ in range(REQUESTS_AT_ONCE):
            await session.stream.send(pb.DeviceFrame(begin=begin))
            while (frame := session.stream.open(await session.call.read())).WhichOneof("body") != "end":
                assert frame.WhichOneof("body") in ("receipt", "token")
        await session.close()


async def test_an_old_session_gives_way_to_a_fresh_one(
    camera: Device, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)
    old = camera.link.sessions.idle[0]
    monkeypatch.setattr("edge_node.cloud.session.SESSION_AGE_S", 0.0)
    assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids
    assert old not in camera.link.sessions.idle
    await until(lambda: cloud.servicer.active.total() == 1)


async def test_the_bytes_are_those_of_the_payload_and_little_more(camera: Device) -> None:
    report = await camera.ask("image/jpeg90", PICTURE, QUESTION)
    payload, _ = await camera.engine.encode_image(PICTURE, "jpeg90")
    assert 0 < report.exchange.bytes_sent - len(payload) - len(QUESTION) <= 80


async def test_two_devices_at_once_get_their_own_answers(model: str, keys: Keys, cloud: Cloud, camera: Device) -> None:
    async with device(model, cloud, keys.identity(fresh("edge"), Role.EDGE)) as other:
        alone = [await camera.ask("tokens/lossless", PICTURE, text) for text in (QUESTION, "Is there a lake?")]
        both = await asyncio.gather(
            camera.ask("tokens/lossless", PICTURE, QUESTION), other.ask("lm:1/lossless", PICTURE, "Is there a lake?")
        )
    assert [one.token_ids for one in both] == [one.token_ids for one in alone]


async def test_a_caller_that_goes_away_frees_its_session(camera: Device, cloud: Cloud) -> None:
    running = camera.run("tokens/lossless", Prompt.about(PICTURE, QUESTION), 64)
    await anext(running)
    assert cloud.servicer.active.total() == 1
    await running.aclose()
    await until(lambda: cloud.servicer.active.total() == 0)
    assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids


async def test_a_full_node_says_so_and_serves_on(camera: Device, cloud: Cloud) -> None:
    running = [camera.run("tokens/lossless", Prompt.about(PICTURE, QUESTION), 64) for _ in range(2)]
    for one in running:
        await anext(one)
    with pytest.raises(CapacityError, match="sessions open"):
        await camera.ask("tokens/lossless", PICTURE, QUESTION)
    for one in running:
        await one.aclose()
    await until(lambda: cloud.servicer.active.total() == 0)
    assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights_hash", "other"),
        ("processor_hash", "other"),
        ("codec_hash", "x"),
        ("dtype", "bfloat16"),
        ("protocol_version", 10),
    ],
)
async def test_what_differs_is_named(keys: Keys, cloud: Cloud, name: str, value: object) -> None:
    differing = pb.Compatibility.FromString(cloud.compatibility.SerializeToString())
    setattr(differing, name, value)
    link = CloudLink(cloud.address, differing, keys.identity(fresh("edge"), Role.EDGE), [])
    with pytest.raises(HandshakeRefused, match=name.partition("_")[0]):
        await link.sessions.warm_up()
    await link.close()


async def test_another_role_is_refused(keys: Keys, cloud: Cloud) -> None:
    async with open_channel(cloud.address, keys.identity(fresh("app"), Role.APP), Role.CLOUD) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await data_pb2_grpc.DataStub(channel).Probe(pb.ProbeRequest())
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_another_authority_is_refused(tmp_path: Path, cloud: Cloud) -> None:
    stranger = Keys(tmp_path / "other").identity("edge-1", Role.EDGE)
    link = CloudLink(cloud.address, cloud.compatibility, stranger, [])
    with pytest.raises(PeerUnavailable):
        await link.sessions.warm_up()
    await link.close()


async def test_a_node_that_is_away_is_an_error_not_a_wait(keys: Keys, cloud: Cloud) -> None:
    link = CloudLink("127.0.0.1:9", cloud.compatibility, keys.identity(fresh("edge"), Role.EDGE), [])
    with pytest.raises(PeerUnavailable, match="does not answer"):
        await link.sessions.warm_up()
    await link.close()


@pytest.mark.parametrize(
    ("plan", "question", "tokens", "error"),
    [
        ("tokens/lossless", QUESTION, 65, UsageError),
        ("image/lossless", "word " * 3000, 4, UsageError),
    ],
)
async def test_a_refused_request_leaves_a_working_node(
    camera: Device, plan: str, question: str, tokens: int, error: type[SplitvlmError]
) -> None:
    with pytest.raises(error):
        await camera.ask(plan, PICTURE, question, tokens)
    assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids


async def test_a_frame_that_does_not_open_ends_the_session(camera: Device, cloud: Cloud) -> None:
    await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)
    session = camera.link.sessions.idle[0]
    await session.call.write(pb.Envelope(sealed=b"\0" * 64))
    async with asyncio.timeout(60):
        assert await session.call.code() is grpc.StatusCode[ProtocolError.grpc_status]
    await until(lambda: cloud.servicer.active.total() == 0)
    assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids
