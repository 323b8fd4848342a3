"""The control plane over real mutual TLS: plan streams that come and go, callers that flood, nodes of one name."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator.node import SERVICE
from orchestrator.registry import EdgeNode, Origin
from orchestrator.servicer import CALLS_AT_ONCE, CALLS_PER_HEARTBEAT, CALLS_PER_S, ControlServicer
from splitvlm.crypto.identity import Role, load_identity
from splitvlm.errors import Cancelled, CapacityError, ConfigError, SplitvlmError, UsageError
from splitvlm.node.lifecycle import background
from splitvlm.planning.limits import PlanLimits
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.profiles import cloud_profile_to_wire, device_profile_to_wire
from splitvlm.rpc.servers import NodeServer
from splitvlm.rpc.status import from_rpc
from splitvlm.wire.v1 import control_pb2 as pb
from splitvlm.wire.v1 import control_pb2_grpc
from splitvlm.wire.v1.profiles_pb2 import CloudProfile, CodingCost, CutTime, DeviceProfile, PlanAccuracy
from tests.nodes import Keys, until
from tests.unit.rpc.test_profiles import CLOUD_PROFILE, DEVICE_PROFILE

HEARTBEAT_S = 20.0  # nobody dies of silence in a test that does not ask for it
INSTANCE = "0123456789abcdef"
Watch = grpc.aio.UnaryStreamCall[pb.WatchRequest, pb.PlanTable]


@dataclass
class Orchestrator:
    address: str
    keys: Keys
    server: NodeServer
    servicer: ControlServicer
    stack: contextlib.AsyncExitStack

    async def stub(self, name: str, role: Role) -> control_pb2_grpc.ControlStub:
        folder = self.keys.folder / name
        identity = load_identity(folder) if folder.exists() else self.keys.identity(name, role)
        channel = open_channel(self.address, identity, Role.ORCHESTRATOR)
        await self.stack.enter_async_context(channel)
        return control_pb2_grpc.ControlStub(channel)

    async def cloud(self, name: str = "cloud-1", port: int = 1) -> control_pb2_grpc.ControlStub:
        stub = await self.stub(name, Role.CLOUD)
        await stub.Register(cloud(name, port), timeout=30)
        return stub

    async def edge(self, name: str = "edge-1") -> control_pb2_grpc.ControlStub:
        stub = await self.stub(name, Role.EDGE)
        await stub.Register(edge(name), timeout=30)
        return stub


@pytest.fixture
async def orchestrator(tmp_path: Path) -> AsyncIterator[Orchestrator]:
    keys = Keys(tmp_path / "keys")
    server = NodeServer(keys.identity("orchestrator", Role.ORCHESTRATOR), [SERVICE])
    servicer = ControlServicer(HEARTBEAT_S, {}, plaintext=False)
    control_pb2_grpc.add_ControlServicer_to_server(servicer, server.grpc)
    address = await server.listen("127.0.0.1:0")
    async with background(servicer.run()), contextlib.AsyncExitStack() as stack:
        yield Orchestrator(address, keys, server, servicer, stack)
        servicer.end_streams()
        await server.drain(1.0)


def edge(name: str = "edge-1", instance: str = INSTANCE, listen: str = "127.0.0.1:7443") -> pb.Registration:
    profiles = [device_profile_to_wire(DEVICE_PROFILE)]
    return pb.Registration(
        node=name, role="edge", model="m", weights_hash="w", devices=profiles, instance=instance, listen=listen
    )


def cloud(name: str = "cloud-1", port: int = 1) -> pb.Registration:
    address, profiles = f"127.0.0.1:{port}", [cloud_profile_to_wire(CLOUD_PROFILE)]
    return pb.Registration(
        node=name, role="cloud", model="m", weights_hash="w", clouds=profiles, instance=INSTANCE, address=address
    )


def beat(name: str) -> pb.HeartbeatRequest:
    return pb.HeartbeatRequest(node=name, instance=INSTANCE)


async def refused(call: object) -> SplitvlmError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return from_rpc(caught.value, "orchestrator")


def admitted_since(began_s: float) -> float:
    """Returns how many calls of one node the pace admits from then until now."""
    rate_per_s = CALLS_PER_S + CALLS_PER_HEARTBEAT / HEARTBEAT_S
    return CALLS_AT_ONCE + rate_per_s * (time.monotonic() - began_s)


async def to_the_end(call: Watch) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_watchers_that_are_cancelled_while_they_wait_leave_nothing_locked(orchestrator: Orchestrator) -> None:
    """Cancellations that meet the end of a wait, while beats come: registering works, and a stop ends at once."""
    beating, flood = await orchestrator.cloud(), await orchestrator.cloud("cloud-2", 2)
    stubs = [await orchestrator.edge(f"edge-{number}") for number in range(25)]
    calls: list[Watch] = []
    for attempt in range(4):
        calls = [stub.WatchPlans(pb.WatchRequest(node=f"edge-{i}", instance=INSTANCE)) for i, stub in enumerate(stubs)]
        assert [(await call.read()).cloud_node[:6] for call in calls] == ["cloud-"] * 25
        beats = [stub.Heartbeat(pb.HeartbeatRequest(node=name, instance=INSTANCE, queue_us=50_000 * attempt))
                 for stub, name in ((beating, "cloud-1"), (flood, "cloud-2"))]  # fmt: skip
        for call in calls[:-1]:
            call.cancel()
        await asyncio.gather(*beats)
    began_s = time.monotonic()
    await orchestrator.edge("edge-new")
    assert time.monotonic() - began_s < 30, "the call's own limit"
    assert (await stubs[-1].Nodes(pb.NodesRequest())).nodes[0].alive
    orchestrator.servicer.end_streams()
    assert isinstance(await refused(to_the_end(calls[-1])), Cancelled)
    async with asyncio.timeout(50):
        await orchestrator.server.drain(60.0)  # it would wait so long for a stream that hangs


async def test_a_device_has_one_stream_and_others_keep_theirs(orchestrator: Orchestrator) -> None:
    await orchestrator.cloud()
    greedy, honest = await orchestrator.edge("edge-1"), await orchestrator.edge("edge-2")
    kept = honest.WatchPlans(pb.WatchRequest(node="edge-2", instance=INSTANCE))
    assert (await kept.read()).lines
    began_s = time.monotonic()
    calls = [greedy.WatchPlans(pb.WatchRequest(node="edge-1", instance=INSTANCE)) for _ in range(50)]
    ends = [asyncio.create_task(refused(to_the_end(call))) for call in calls]
    await until(lambda: sum(task.done() for task in ends) == 49, timeout_s=30)
    done = [task for task in ends if task.done()]
    kinds = [type(task.result()) for task in done]
    assert kinds.count(CapacityError) >= 49 - admitted_since(began_s), "streams are calls, and calls are paced"
    assert set(kinds) <= {CapacityError, Cancelled}
    await orchestrator.cloud("cloud-2", 2)
    assert (await kept.read()).standby, "the other device hears of it"
    assert sum(task.done() for task in ends) == 49, "the newest lives"
    for call in [*calls, kept]:
        call.cancel()
    await asyncio.gather(*ends, return_exceptions=True)


async def test_who_beats_too_often_is_refused_and_honest_nodes_stay_alive(orchestrator: Orchestrator) -> None:
    flooding, honest = await orchestrator.edge("edge-1"), await orchestrator.cloud("cloud-1")
    began_s = time.monotonic()
    answers = asyncio.gather(*(refused(flooding.Heartbeat(beat("edge-1"))) for _ in range(200)), return_exceptions=True)
    for _ in range(8):
        await honest.Heartbeat(beat("cloud-1"), timeout=60)
    errors = [error for error in await answers if isinstance(error, SplitvlmError)]
    assert len(errors) >= 199 - admitted_since(began_s)
    assert all(isinstance(error, CapacityError) and 0 < error.retry_after_s < 60 for error in errors)
    assert "cloud-1" in {node.node for node in (await honest.Nodes(pb.NodesRequest())).nodes if node.alive}


async def test_a_table_follows_what_it_depends_on_and_nothing_else(
    orchestrator: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []
    publisher = orchestrator.servicer._publisher
    real = publisher._tables.table_for
    monkeypatch.setattr(publisher._tables, "table_for", lambda *basis: (built.append(basis), real(*basis))[1])
    first, device = await orchestrator.cloud(), await orchestrator.edge()
    call = device.WatchPlans(pb.WatchRequest(node="edge-1", instance=INSTANCE))
    assert (await call.read()).cloud_node == "cloud-1"
    before = len(built)
    for _ in range(5):
        await device.Heartbeat(beat("edge-1"))
        await first.Heartbeat(beat("cloud-1"))
        await publisher._round()  # whoever asks for one
    second = await orchestrator.cloud("cloud-2", 2)
    assert len({*(both := await call.read()).standby, both.cloud_address}) == 2
    assert len(built) == before + 1, "five beats of both built nothing; the second cloud node one table"
    await first.Leave(pb.LeaveRequest(node="cloud-1", instance=INSTANCE))
    left = await call.read()
    assert (left.cloud_node, list(left.standby)) == ("cloud-2", [])
    orchestrator.servicer.use(0.1, {})
    heard = await second.Heartbeat(beat("cloud-2"))
    assert heard.heartbeat_ms == 100, "from the next beat on, nodes beat as often as they are expected to"
    dead = await call.read()  # cloud-2 has been silent for longer than three of these beats
    assert (dead.cloud_node, [line.plan for line in dead.lines]) == ("", ["device/none"])
    call.cancel()


async def test_the_second_node_of_a_name_is_refused_and_takes_no_stream(orchestrator: Orchestrator) -> None:
    await orchestrator.cloud()
    first = await orchestrator.edge("edge-1")
    call = first.WatchPlans(pb.WatchRequest(node="edge-1", instance=INSTANCE))
    assert (await call.read()).lines
    twin = await orchestrator.stub("edge-1", Role.EDGE)
    error = await refused(twin.Register(edge("edge-1", "f" * 16, "127.0.0.1:7555")))
    assert isinstance(error, ConfigError)
    assert "edge-1" in error.sentence
    assert "127.0.0.1:7443" in error.sentence
    assert "127.0.0.1:7555" in error.sentence
    watched = twin.WatchPlans(pb.WatchRequest(node="edge-1", instance="f" * 16))
    assert isinstance(await refused(watched.read()), ConfigError)
    await orchestrator.cloud("cloud-2", 2)
    assert (await call.read()).standby, "the first keeps its stream"
    await first.Leave(pb.LeaveRequest(node="edge-1", instance=INSTANCE))
    await twin.Register(edge("edge-1", "f" * 16, "127.0.0.1:7555"))
    call.cancel()


@pytest.mark.parametrize(("model", "at_least"), [("m", 1_000), ("m" * 1_000, 80)])
async def test_a_list_of_many_nodes_is_cut_to_a_message(orchestrator: Orchestrator, model: str, at_least: int) -> None:
    origin = Origin(INSTANCE, "10.0.0.1", "127.0.0.1:7443")
    for number in range(1_500):
        device = EdgeNode(f"edge-{number}", model, "w", origin, DEVICE_PROFILE, PlanLimits(), b"kind")
        orchestrator.servicer._registry.register(device, time.monotonic())
    listed = (await (await orchestrator.stub("app", Role.APP)).Nodes(pb.NodesRequest())).nodes
    assert at_least <= len(listed) <= 1_000
    assert all(node.alive for node in listed)


def device(**rows: Any) -> pb.Registration:
    """With the profile of another variant besides."""
    return pb.Registration(devices=[DeviceProfile(variant="w8", **rows)])


@pytest.mark.parametrize(
    "wrong",
    [
        pb.Registration(node="Edge 1"),
        pb.Registration(instance="x"),
        pb.Registration(role="app"),
        pb.Registration(weights_hash="w" * 1000),
        pb.Registration(model="m" * 5000),
        pb.Registration(model="two\nlines"),
        device(cuts=[CutTime(cut="tokens", seconds=float("nan"))]),
        device(cuts=[CutTime(cut=f"lm:{1 + n}", seconds=0) for n in range(2_000)]),
        device(coding=[CodingCost(cut="tokens", level="l" * 100, seconds=0, payload_bytes=0)]),
        device(coding=[CodingCost(cut="tokens", level="int4", seconds=0, payload_bytes=0, leak=7.0)]),
        device(coding=[CodingCost(cut="tokens", level="int4", seconds=0)]),
        pb.Registration(devices=[DeviceProfile(variant="full")]),
        pb.Registration(devices=[DeviceProfile(variant=f"v{n}") for n in range(17)]),
        pb.Registration(limits=pb.PlanLimits(max_leak=float("nan"))),
        pb.Registration(limits=pb.PlanLimits(levels=[f"l{n}" for n in range(100)])),
        pb.Registration(role="cloud", address="0.0.0.0:7442"),
        pb.Registration(role="cloud", address="10.0.0.1:0"),
        pb.Registration(role="cloud", address="10.0.0.1:70000"),
        pb.Registration(role="cloud", address="10.0.0.1:1", clouds=[CloudProfile(variants=["full"], queue_s=-1.0)]),
        pb.Registration(role="cloud", address="10.0.0.1:1", accuracy=[PlanAccuracy(plan="tokens/int4", drop=2.0)]),
    ],
)
async def test_a_wrong_registration_changes_nothing(orchestrator: Orchestrator, wrong: pb.Registration) -> None:
    message = edge()
    message.MergeFrom(wrong)
    stub = await orchestrator.stub("edge-1", Role.CLOUD if wrong.role == "cloud" else Role.EDGE)
    assert isinstance(await refused(stub.Register(message)), UsageError)
    assert not (await stub.Nodes(pb.NodesRequest())).nodes
