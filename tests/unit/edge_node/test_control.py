"""What the orchestrator says to a device: a wrong table changes nothing, and no address ends the node."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from edge_node.cloud.fleet import CloudFleet, Dialling
from edge_node.control import EdgeControl
from edge_node.planner import Planner
from edge_node.privacy import EVERYTHING_MAY_LEAVE
from edge_node.runtime import Runtime
from edge_node.settings import EdgeSettings
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut
from splitvlm.errors import CapacityError, PeerUnavailable, UsageError
from splitvlm.rpc.channels import connected
from splitvlm.rpc.control_client import LAST_RETRY_S, ControlClient, retry_s
from splitvlm.rpc.control_messages import (
    LEAST_HEARTBEAT_S,
    MOST_HEARTBEAT_S,
    check_heartbeat,
    check_report,
    heartbeat_period_s,
)
from splitvlm.rpc.plans import table_to_wire
from splitvlm.wire.v1 import control_pb2 as pb
from splitvlm.wire.v1 import data_pb2
from tests.unit.rpc.test_plans import TABLE

PINNED, SPARE, NAMED, OTHER = (f"127.0.0.1:{port}" for port in (9001, 9002, 9003, 9004))
CUTS = (IMAGE, TOKENS, Cut.parse("lm:2"), DEVICE)


class Device:
    """An edge node's control, without keys and with nobody on the other end."""

    def __init__(self, **settings: Any) -> None:
        nothing: Any = SimpleNamespace(close=lambda: None)
        self.settings = EdgeSettings.model_validate({"orchestrator": "127.0.0.1:1", **settings})
        clouds = CloudFleet(Dialling(data_pb2.Compatibility(), None, []), EVERYTHING_MAY_LEAVE)
        self.runtime = Runtime(self.settings, nothing, EVERYTHING_MAY_LEAVE, clouds)
        self.planner = Planner(self.settings.planning, CUTS, Codec(), EVERYTHING_MAY_LEAVE)
        client: Any = SimpleNamespace(peer="orchestrator at 127.0.0.1:1")
        self.control = EdgeControl(client, self.runtime, self.planner, pb.Registration(node="edge-1"))
        if self.settings.cloud:
            self.runtime.clouds.use([self.settings.cloud, *self.settings.standby])

    def gets(self, message: pb.PlanTable) -> None:
        self.control.apply(message)

    @property
    def dials(self) -> list[str]:
        return [link.address for link in [self.runtime.clouds.link, *self.runtime.clouds.standby] if link is not None]


def table(**changes: Any) -> pb.PlanTable:
    message = table_to_wire(TABLE, cloud_node="cloud-1", cloud_address=NAMED, standby=[OTHER])
    for name, value in changes.items():
        if name == "line":
            message.lines[0].MergeFrom(value)
        elif name == "standby":
            message.standby.extend(value)
        else:
            setattr(message, name, value)
    return message


async def test_a_good_table_is_used() -> None:
    device = Device()
    device.gets(table())
    assert device.planner.table is not None
    assert device.dials == [NAMED, OTHER]
    await device.runtime.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"line": pb.CostLine(plan="tokens/jpg90")},
        {"line": pb.CostLine(plan="image/int4")},
        {"line": pb.CostLine(plan="lm:9/int8")},
        {"line": pb.CostLine(plan="tokens/int4@w8")},
        {"line": pb.CostLine(plan="nonsense")},
        {"line": pb.CostLine(device_s=float("nan"))},
        {"line": pb.CostLine(cloud_s=float("inf"))},
        {"line": pb.CostLine(token_s=-1.0)},
        {"line": pb.CostLine(accuracy_drop=-0.5)},
        {"line": pb.CostLine(leak=-1.0)},
        {"line": pb.CostLine(payload_bytes=2**63)},
        {"line": pb.CostLine(trips=2**31)},
        {"line": pb.CostLine(cloud="Not A Name")},
        {"standby": [f"10.0.0.1:{port}" for port in range(1, 80)]},
        {"standby": ["no address"]},
        {"standby": ["10.0.0.1:99999"]},
        {"standby": ["0.0.0.0:7442"]},
        {"cloud_address": "[::]:7442"},
        {"cloud_address": "evil.example:0"},
        {"cloud_address": "x" * 1000 + ":7442"},
        {"cloud_node": "../cloud"},
        {"problem": "two\nlines"},
    ],
)
async def test_a_table_with_one_wrong_part_changes_nothing_and_is_told_once(
    wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    device = Device()
    device.gets(table())
    before = device.planner.table, device.dials
    for _ in range(3):
        device.gets(table(version=99, **wrong))
    assert (device.planner.table, device.dials) == before
    refusals = [message for message in caplog.messages if "refused" in message]
    assert len(refusals) == 1
    assert "orchestrator at 127.0.0.1:1" in refusals[0]
    await device.runtime.close()


async def test_without_keys_a_foreign_address_is_not_dialled_and_nothing_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = Device()
    device.gets(table(cloud_address="10.0.0.7:7442"))
    assert device.dials == [OTHER]
    assert device.planner.table is not None
    assert "10.0.0.7:7442" in caplog.text
    device.gets(table(standby=["127.0.0.1.evil.example:7442"]))
    assert device.dials == [NAMED, OTHER]
    await device.runtime.close()


@pytest.mark.parametrize(
    ("settings", "dials"),
    [
        ({"cloud": PINNED}, [PINNED]),
        ({"cloud": PINNED, "standby": [SPARE]}, [PINNED, SPARE]),
        ({"cloud": PINNED, "accept_standby": True}, [PINNED, NAMED, OTHER]),
        ({"cloud": PINNED, "standby": [SPARE], "accept_standby": True}, [PINNED, SPARE, NAMED, OTHER]),
        ({}, [NAMED, OTHER]),
        ({"standby": [SPARE]}, [NAMED, SPARE, OTHER]),
    ],
)
async def test_where_cloud_is_set_nodes_that_the_orchestrator_names_are_used_if_allowed(
    settings: dict[str, Any], dials: list[str]
) -> None:
    device = Device(**settings)
    device.gets(table())
    assert device.dials == dials
    await device.runtime.close()


async def test_why_there_is_no_table_is_said() -> None:
    codec = Codec()
    alone = Planner(EdgeSettings().planning, (TOKENS,), codec, EVERYTHING_MAY_LEAVE)
    with pytest.raises(PeerUnavailable, match="No orchestrator is configured"):
        alone.choose("", None, False)
    device = Device()
    device.planner = Planner(device.settings.planning, (TOKENS,), codec, EVERYTHING_MAY_LEAVE)
    device.control._planner = device.planner
    device.gets(pb.PlanTable(version=1, problem="No plan is allowed: max_accuracy_drop = 0.0 forbids every plan."))
    with pytest.raises(PeerUnavailable, match=r"has no plan for this node.*max_accuracy_drop"):
        device.planner.choose("", None, False)
    await device.runtime.close()


@pytest.mark.parametrize(("heartbeat_ms", "period_s"), [(0, 0.1), (1, 0.1), (2_000, 2.0), (2**32 - 1, 300.0)])
def test_the_period_of_beats_is_within_bounds(heartbeat_ms: int, period_s: float) -> None:
    assert heartbeat_period_s(pb.RegisterReply(heartbeat_ms=heartbeat_ms)) == period_s


def test_retries_are_spread_and_wait_as_long_as_asked() -> None:
    assert all(0.5 <= retry_s(1) <= 1.0 for _ in range(100))
    assert len({retry_s(3) for _ in range(100)}) > 50
    assert max(retry_s(1_000_000) for _ in range(100)) <= LAST_RETRY_S
    asked = CapacityError("full", retry_after_s=3.0)
    assert all(3.5 <= retry_s(1, asked) <= 4.0 for _ in range(100))
    assert retry_s(1, CapacityError("full", retry_after_s=1e9)) <= 2 * LAST_RETRY_S


@pytest.mark.parametrize(
    "report",
    [
        pb.LinkReport(node="edge-1", uplink_bps=float("nan")),
        pb.LinkReport(node="edge-1", rtt_s=-1.0),
        pb.LinkReport(node="edge-1", spread=float("inf")),
        pb.LinkReport(node="edge-1", plans=[pb.PlanUse(plan="nonsense")]),
        pb.LinkReport(node="edge-1", plans=[pb.PlanUse(plan="tokens/int4")] * 300),
        pb.LinkReport(node=""),
    ],
)
def test_wrong_reports_are_refused(report: pb.LinkReport) -> None:
    with pytest.raises(UsageError):
        check_report(report)


def test_a_beat_with_an_endless_queue_is_refused() -> None:
    check_heartbeat(pb.HeartbeatRequest(node="cloud-1", instance="0" * 16, queue_us=10**9))
    with pytest.raises(UsageError, match="queue_us"):
        check_heartbeat(pb.HeartbeatRequest(node="cloud-1", instance="0" * 16, queue_us=2**63))


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_that_meets_the_end_of_a_wait_is_not_lost(turns: int) -> None:
    """Before Python 3.12 `asyncio.wait_for` forgets it, and whoever waits for the cancelled task waits for ever."""
    client = ControlClient("127.0.0.1:1", None)
    channel: Any = SimpleNamespace(channel_ready=asyncio.Event().wait)
    waits = [client._renewal_asked_within(60.0), connected(channel, "peer", None)]
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    client.renew_registration()
    channel.channel_ready.__self__.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in tasks:
        asked = task.cancel()  # False where it ended before
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled() is asked
    await client.close()


async def test_what_an_orchestrator_refuses_is_logged_once_until_it_does_not(caplog: pytest.LogCaptureFixture) -> None:
    client = ControlClient("127.0.0.1:1", None)
    nothing = grpc.aio.Metadata()
    calls = [
        grpc.aio.AioRpcError(grpc.StatusCode.PERMISSION_DENIED, nothing, nothing, details=f"reason {n % 2}")
        for n in range(6)
    ]
    for call in calls:
        client.note(call)
    assert len(caplog.records) == 2
    assert client.reachable, "a refusal is an answer"
    for number in range(100):
        client.note(grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, nothing, nothing, details=f"another {number}"))
    assert len(caplog.records) <= 16
    client.note(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, details="gone"))
    assert not client.reachable
    await client.close()


async def test_a_node_beats_as_often_as_the_last_reply_says(monkeypatch: pytest.MonkeyPatch) -> None:
    client, waits = ControlClient("127.0.0.1:1", None), list[float]()
    replies = iter((500, 0, 2**32 - 1))

    async def asked_within(timeout_s: float) -> bool:
        waits.append(timeout_s)
        return len(waits) > 3

    async def heartbeat(message: pb.HeartbeatRequest, **_: object) -> pb.HeartbeatReply:
        assert message.instance == client.instance
        return pb.HeartbeatReply(heartbeat_ms=next(replies))

    monkeypatch.setattr(client, "_renewal_asked_within", asked_within)
    monkeypatch.setattr(ControlClient, "stub", SimpleNamespace(Heartbeat=heartbeat))
    await client._send_heartbeats(2.0, lambda: pb.HeartbeatRequest(node="edge-1"))
    assert 0 <= waits[0] <= 2.0
    assert waits[1:] == [0.5, LEAST_HEARTBEAT_S, MOST_HEARTBEAT_S]
    await client.close()
