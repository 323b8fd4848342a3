"""The nodes as processes: health, several devices at once, a device that dies, an orchestrator that goes and comes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from PIL import Image

from splitvlm.crypto.identity import Identity, Role
from splitvlm.domain import Conversation
from splitvlm.errors import PeerUnavailable
from splitvlm.evaluation.answers import Example, answers
from splitvlm.model.loading import load_whole
from splitvlm.node.lifecycle import background
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.scenes import MODEL_DIR, draw, held_out
from splitvlm.tools.launcher import Launcher, Node
from splitvlm.wire.v1 import control_pb2, control_pb2_grpc
from splitvlm.wire.v1 import local_pb2 as pb
from tests.forked import ForkedLauncher, splitvlm
from tests.nodes import until
from tests.samples import PICTURE, tiny_model
from tests.tls import shake_hands

QUESTION = "How many cells are infected?"
needs_scenes = pytest.mark.skipif(
    not (MODEL_DIR / "model.safetensors").exists(), reason="the embedded model is missing"
)


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with ForkedLauncher(tmp_path) as made:
        yield made


async def ask(client: EdgeClient, picture: Image.Image, question: str, **more: object) -> tuple[str, pb.RequestReport]:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    text, report = "", pb.RequestReport()
    async for answer in client.ask(Conversation.about(question), [buffer.getvalue()], **more):  # type: ignore[arg-type]
        text += answer.text
        report = answer.report if answer.HasField("report") else report
    return text.strip(), report


async def status_when(client: EdgeClient, ready: object) -> pb.StatusReply:
    """The edge node's status once it is as wanted; fails after 90 s."""
    assert callable(ready)
    async with asyncio.timeout(90):
        while not ready(status := await client.status()):  # noqa: ASYNC110  another process changes it
            await asyncio.sleep(0.05)
    return status


async def start_all(launcher: Launcher, model: str) -> tuple[Node, Node, Node]:
    orchestrator = await launcher.start("orchestrator", {"heartbeat_s": 0.5})
    common = {"orchestrator": orchestrator.address, "model": {"name": model, "threads": 1}}
    cloud = await launcher.start("cloud", common)
    edge = await launcher.start("edge", common | {"planning": {"cuts": ["image", "tokens"], "max_kind_drop": None}})
    return orchestrator, cloud, edge


async def test_no_process_speaks_tls_1_2(launcher: Launcher, tmp_path: Path) -> None:
    """What gRPC speaks is decided before it is imported, so one node is started anew; it imports no torch."""
    folder = tmp_path / "anew"
    folder.mkdir()
    async with Launcher(folder) as anew:
        await anew.start("orchestrator", {})
        await start_all(launcher, tiny_model("scenes-like"))
        for started in (anew, launcher):
            caller = started.identity("app", Role.APP)
            for node in started.nodes:
                assert await shake_hands(node.address, tmp_path, caller, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await shake_hands(node.address, tmp_path, caller, ssl.TLSVersion.TLSv1_2)


async def test_a_picture_unlike_those_the_model_knows_is_answered_with_a_warning(launcher: Launcher) -> None:
    edge = await launcher.start("edge", {"model": {"name": "scenes", "threads": 1}})
    client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
    page = Image.new("RGB", (300, 400), "white")
    page.paste("black", (20, 20, 280, 200))
    _, known = await ask(client, draw("road", 3).image, QUESTION, max_new_tokens=2)
    text, unknown = await ask(client, page, QUESTION, max_new_tokens=2)
    assert known.warning == ""
    assert text
    assert unknown.warning.startswith("The embedded model knows drawn microscopy, aerial and road scenes only.")
    await client.close()


async def test_the_orchestrator_plans_and_is_not_needed_to_answer(launcher: Launcher) -> None:
    orchestrator, _, edge = await start_all(launcher, tiny_model("scenes-like"))
    client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
    status = await status_when(client, lambda status: bool(status.plans) and status.cloud_reachable)
    plans = {row.plan for row in status.plans}
    assert {plan.partition("/")[0] for plan in plans} <= {"image", "tokens"}
    lossy = [row for row in status.plans if not row.plan.endswith("/lossless")]
    assert lossy
    assert not any(row.HasField("accuracy_drop") for row in lossy), "nobody measured this model"
    before, report = await ask(client, PICTURE, QUESTION, max_new_tokens=6)
    assert report.plan in plans
    assert await orchestrator.stop() == 0
    await status_when(client, lambda status: not status.orchestrator_reachable)
    after, _ = await ask(client, PICTURE, QUESTION, max_new_tokens=6, plan=report.plan)
    assert after == before
    again = await launcher.start("orchestrator", {"node": "o-2", "heartbeat_s": 0.5, "listen": orchestrator.address})
    await status_when(client, lambda status: status.orchestrator_reachable)
    await client.close()
    assert [await node.stop() for node in (edge, again)] == [0, 0]


async def test_a_cloud_node_that_goes_away_is_an_error_and_comes_back(launcher: Launcher) -> None:
    model = {"name": tiny_model("scenes-like"), "threads": 1}
    cloud = await launcher.start("cloud", {"model": model})
    fixed = {"cloud": cloud.address, "model": model, "planning": {"fixed_plan": "tokens/lossless"}}
    edge = await launcher.start("edge", fixed)
    client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
    before, _ = await ask(client, PICTURE, QUESTION, max_new_tokens=6)
    cloud.process.kill()
    await cloud.process.wait()
    with pytest.raises(PeerUnavailable):
        await ask(client, PICTURE, QUESTION, max_new_tokens=6)
    await launcher.start("cloud", {"node": "cloud-2", "model": model, "listen": cloud.address})
    await status_when(client, lambda status: status.cloud_reachable)
    assert (await ask(client, PICTURE, QUESTION, max_new_tokens=6))[0] == before
    await client.close()


@needs_scenes
async def test_two_devices_at_once_and_one_that_dies(launcher: Launcher) -> None:
    cloud = await launcher.start("cloud", {"model": {"threads": 1}})
    fixed = {"cloud": cloud.address, "model": {"threads": 1}, "planning": {"fixed_plan": "tokens/lossless"}}
    edges = [await launcher.start("edge", {"node": f"edge-{number}", **fixed}) for number in (1, 2)]
    identity = launcher.identity("app", Role.APP)
    clients = [EdgeClient(edge.address, identity) for edge in edges]
    asked = [(scene.image, q) for scene, q in held_out(12, 3)]
    examples = [Example(image, q.text, q.answer) for image, q in asked]
    unsplit = answers(*load_whole("scenes"), examples, lambda done: None)
    assert sum(outcome.right for outcome in unsplit) > len(asked) / 2

    async def all_answers(client: EdgeClient) -> list[str]:
        return [(await ask(client, image, q.text))[0] for image, q in asked]

    expected = [outcome.answer for outcome in unsplit]
    assert await asyncio.gather(*map(all_answers, clients)) == [expected, expected]
    assert (await ask(clients[0], asked[0][0], asked[1][1].text))[1].prefix_cached, (
        "four questions are about each picture"
    )
    dying = asyncio.create_task(ask(clients[0], *asked[0][:1], "Describe the picture."))
    edges[0].process.kill()
    with pytest.raises(PeerUnavailable):
        await dying
    assert await all_answers(clients[1]) == expected
    for client in clients:
        await client.close()


async def test_health_and_reflection(launcher: Launcher) -> None:
    node = await launcher.start("orchestrator", {})
    identity = launcher.identity("app", Role.APP)
    async with open_channel(node.address, identity, Role.ORCHESTRATOR) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        reply = await stub.Check(health_pb2.HealthCheckRequest(service="splitvlm.wire.v1.Control"))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    assert "splitvlm.wire.v1.Control" in await asyncio.to_thread(services, node.address, identity)
    assert await node.stop() == 0


def services(address: str, identity: Identity) -> list[str]:
    pair = (identity.authority_pem, identity.private_key_pem, identity.certificate_pem)
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(*pair)) as channel:
        return list(ProtoReflectionDescriptorDatabase(channel).get_services())


@needs_scenes
def test_a_short_demo(tmp_path: Path) -> None:
    """On this link no more bytes than JPEG's are ever the faster plan, however busy the machine is."""
    sizes = ("--questions", "6", "--slowdown", "2", "--trace", "constant:500kbit")
    done = splitvlm("demo", *sizes, "--json", "demo.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "EMULATION" in done.stdout
    result = json.loads((tmp_path / "demo.json").read_text())
    assert result["questions"] == result["answered"] == sum(result["cuts"].values()) == 6
    assert result["correct"] >= 4
    assert 6 * 50 < result["bytes_sent"] < result["jpeg_bytes"]  # which plans it takes is the machine's to say
    assert result["jpeg_bytes"] > 1000
    assert (tmp_path / "out/demo.png").stat().st_size > 10_000


async def test_plans_that_nobody_measured_are_left_out_with_a_sentence(launcher: Launcher) -> None:
    """No accuracy was measured of this model, and a limit by kind of question holds unless it is set to null."""
    orchestrator = await launcher.start("orchestrator", {"heartbeat_s": 0.5})
    common = {"orchestrator": orchestrator.address, "model": {"name": tiny_model("scenes-like"), "threads": 1}}
    await launcher.start("cloud", common)
    slow_device = {"emulation": {"slowdown": 4}}  # else the whole model here may be the better plan in every respect
    edge = await launcher.start("edge", common | slow_device | {"planning": {"cuts": ["tokens", "device"]}})
    client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
    status = await status_when(client, lambda status: len(status.plans) > 1 and status.cloud_reachable)
    assert {row.plan for row in status.plans} == {"tokens/lossless", "device/none"}
    assert "plans are forbidden by max_kind_drop, because nobody measured" in status.notice
    assert "`splitvlm evaluate MODEL --plans`, or allow them by a max_kind_drop of 1" in status.notice
    assert (await ask(client, PICTURE, QUESTION, max_new_tokens=2, plan="tokens/int4"))[1].plan == "tokens/int4", (
        "asked for"
    )
    await client.close()


async def test_sighup_changes_what_can_change_and_names_the_rest(launcher: Launcher) -> None:
    orchestrator, cloud, edge = await start_all(launcher, tiny_model("scenes-like"))
    client = EdgeClient(edge.address, launcher.identity("app", Role.APP))
    await status_when(client, lambda status: bool(status.plans) and status.cloud_reachable)
    file = launcher.folder / "edge-1.yaml"
    whole = yaml.safe_load(file.read_text())

    async def reload(settings: object, says: str) -> None:
        seen = len(edge.log.read_text())
        file.write_text(yaml.safe_dump(settings))
        edge.process.send_signal(signal.SIGHUP)
        await until(lambda: says in edge.log.read_text()[seen:], timeout_s=30)

    planning = whole["planning"] | {"fixed_plan": "image/jpeg75", "hedging": False}
    await reload(whole | {"planning": planning, "listen": "127.0.0.1:9"}, "a restart is needed for: listen")
    assert (await ask(client, PICTURE, QUESTION, max_new_tokens=2))[1].plan == "image/jpeg75"
    await reload(whole | {"planning": planning | {"fixed_plan": "nonsense"}}, "the configuration stays as it was")
    assert (await ask(client, PICTURE, QUESTION, max_new_tokens=2))[1].plan == "image/jpeg75"
    await reload(whole | {"planning": planning | {"fixed_plan": "lm:1/int8"}}, "the configuration stays as it was")
    assert (await ask(client, PICTURE, QUESTION, max_new_tokens=2))[1].plan == "image/jpeg75"
    await reload(whole | {"planning": whole["planning"] | {"levels": ["int2"]}}, "configuration read again")
    status = await status_when(
        client, lambda status: status.plans and {row.plan for row in status.plans} <= {"tokens/int2"}
    )
    assert (await ask(client, PICTURE, QUESTION, max_new_tokens=2))[1].plan == "tokens/int2"
    file = launcher.folder / "orchestrator.yaml"
    with_drop = yaml.safe_load(file.read_text()) | {"accuracy": {"tokens/int2": 0.25}}
    file.write_text(yaml.safe_dump(with_drop))
    orchestrator.process.send_signal(signal.SIGHUP)
    cloud.process.send_signal(signal.SIGHUP)
    await status_when(client, lambda now: now.table_version > status.table_version)
    await until(lambda: "configuration read again" in cloud.log.read_text())
    await client.close()
    assert [await node.stop() for node in (edge, cloud, orchestrator)] == [0, 0, 0]


async def test_a_storm_of_plan_streams_holds_the_orchestrator_for_nobody(launcher: Launcher) -> None:
    """Streams that are cancelled around the end of each period of heartbeats, from one certificate, beside a flood of them."""
    node = await launcher.start("orchestrator", {"heartbeat_s": 0.1})
    instance = "0123456789abcdef"
    async with open_channel(node.address, launcher.identity("edge-1", Role.EDGE), Role.ORCHESTRATOR) as channel:
        stub = control_pb2_grpc.ControlStub(channel)
        registration = control_pb2.Registration(
            node="edge-1", role="edge", model="m", weights_hash="w", instance=instance
        )
        await stub.Register(registration)

        async def flood() -> None:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await stub.Heartbeat(control_pb2.HeartbeatRequest(node="edge-1", instance=instance), timeout=2)

        async def come_and_go(number: int) -> None:
            for turn in range(20):
                call = stub.WatchPlans(control_pb2.WatchRequest(node="edge-1", instance=instance))
                await asyncio.sleep(0.1 + 0.001 * ((number + 7 * turn) % 100))
                call.cancel()

        async with background(*(flood() for _ in range(4))):
            await asyncio.gather(*map(come_and_go, range(100)))
    async with open_channel(node.address, launcher.identity("edge-2", Role.EDGE), Role.ORCHESTRATOR) as channel:
        registration.node = "edge-2"
        await control_pb2_grpc.ControlStub(channel).Register(registration, timeout=30)
    node.process.terminate()
    async with asyncio.timeout(30):  # its streams end at once, and what calls run have 5 s
        assert await node.process.wait() == 0
