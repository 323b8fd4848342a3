"""A certificate counts until its end, also on connections and in sessions that were open before; and nodes say when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orchestrator.servicer import ControlServicer
from splitvlm.crypto.authority import issue, revoke, rotate
from splitvlm.crypto.identity import Identity, Role, load_identity
from splitvlm.crypto.lifetime import utc_now
from splitvlm.errors import DeadlineExceeded, KeysError, PeerUnavailable, SplitvlmError
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.rpc.monitor import ExpiryMonitor
from splitvlm.rpc.servers import NodeServer
from splitvlm.rpc.status import from_rpc
from splitvlm.wire.v1 import control_pb2, control_pb2_grpc
from tests.nodes import Keys, cloud_node, device, until
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how far the nodes' clock is ahead. TLS keeps the machine's."""

    def ahead(**span: float) -> None:
        class Ahead(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
                return dt.datetime.now(tz) + dt.timedelta(**span)

        monkeypatch.setattr("splitvlm.crypto.lifetime.dt", SimpleNamespace(datetime=Ahead, UTC=dt.UTC))

    return ahead


@contextlib.asynccontextmanager
async def server(identity: Identity) -> AsyncIterator[NodeServer]:
    """A node that serves health; its address is `address`."""
    node = NodeServer(identity, [])
    node.address = await node.listen("127.0.0.1:0")  # type: ignore[attr-defined]
    await node.set_ready()
    try:
        yield node
    finally:
        await node.drain(0.0)


def address_of(node: NodeServer) -> str:
    return str(node.address)  # type: ignore[attr-defined]


async def test_calls_of_an_expired_certificate_end_on_an_open_connection(
    keys: Keys, clock: Callable[..., None]
) -> None:
    caller = load_identity(issue(keys.folder, "edge-1", Role.EDGE, days=2))
    async with (
        server(keys.identity("cloud-1", Role.CLOUD)) as node,
        open_channel(address_of(node), caller, Role.CLOUD) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == SERVING
        clock(days=2)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Check(health_pb2.HealthCheckRequest())
        error = from_rpc(refused.value, "cloud node")
        assert isinstance(error, KeysError)
        assert "The certificate of edge-1 expired" in str(error)
        assert not watching.done(), "what runs may end within its grace"
        clock(days=2, minutes=2)
        assert await asyncio.wait_for(watching.code(), 60) is grpc.StatusCode.UNAUTHENTICATED
        assert "edge-1 expired" in await watching.details()


async def test_streams_of_a_revoked_certificate_end_at_once(keys: Keys) -> None:
    lost, good = keys.identity("edge-1", Role.EDGE), keys.identity("edge-2", Role.EDGE)
    async with (
        server(keys.identity("cloud-1", Role.CLOUD)) as node,
        open_channel(address_of(node), lost, Role.CLOUD) as channel,
        open_channel(address_of(node), good, Role.CLOUD) as other,
    ):
        streams = [health_pb2_grpc.HealthStub(each).Watch(health_pb2.HealthCheckRequest()) for each in (channel, other)]
        for stream in streams:
            assert (await stream.read()).status == SERVING
        revoke(keys.folder, "edge-1")
        assert await asyncio.wait_for(streams[0].code(), 60) is grpc.StatusCode.UNAUTHENTICATED
        assert "edge-1 has been revoked" in await streams[0].details()
        assert not streams[1].done()


@pytest.mark.parametrize("change", ["expired", "revoked"])
async def test_plan_streams_end_with_their_certificate(keys: Keys, clock: Callable[..., None], change: str) -> None:
    caller = load_identity(issue(keys.folder, "edge-1", Role.EDGE, days=2))
    node = NodeServer(keys.identity("orchestrator", Role.ORCHESTRATOR), [])
    control_pb2_grpc.add_ControlServicer_to_server(ControlServicer(60.0, {}, plaintext=False), node.grpc)
    address = await node.listen("127.0.0.1:0")
    async with open_channel(address, caller, Role.ORCHESTRATOR) as channel:
        stream = control_pb2_grpc.ControlStub(channel).WatchPlans(
            control_pb2.WatchRequest(node="edge-1", instance="0" * 16)
        )
        await until(lambda: node._gate is not None and len(node._gate._open) == 1)
        if change == "expired":
            clock(days=2, minutes=2)
        else:
            revoke(keys.folder, "edge-1")
        assert await asyncio.wait_for(stream.code(), 60) is grpc.StatusCode.UNAUTHENTICATED
    await node.drain(0.0)


@pytest.mark.parametrize("whose", ["edge-1", "cloud-1"])
@pytest.mark.parametrize("change", ["expired", "revoked"])
async def test_an_open_session_takes_no_request_of_a_certificate_that_counts_no_more(
    keys: Keys, clock: Callable[..., None], whose: str, change: str
) -> None:
    """Looked at by the peer at each request, also where a gateway's channel goes on."""
    model = tiny_model("scenes-like")
    edge = load_identity(issue(keys.folder, "edge-1", Role.EDGE, days=800 if whose == "cloud-1" else 30))
    async with cloud_node(model, keys) as cloud, device(model, cloud, edge) as camera:
        first = await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)
        assert camera.link.sessions.idle, "its session is open still"
        session = camera.link.sessions.idle[0]
        if change == "expired":
            clock(days=31)
        else:
            revoke(keys.folder, whose)
        with pytest.raises(SplitvlmError, match=f"{whose}.*{change}"):
            await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)
        assert session not in camera.link.sessions.idle
        assert first.token_ids


async def test_a_session_that_is_too_old_takes_no_request(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("scenes-like")
    async with cloud_node(model, keys) as cloud, device(model, cloud, keys.identity("edge-1", Role.EDGE)) as camera:
        assert (await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)).token_ids
        monkeypatch.setattr("cloud_node.worker.worker.MAX_SESSION_AGE_S", 0.0)
        with pytest.raises(DeadlineExceeded, match="too old"):
            await camera.ask("tokens/lossless", PICTURE, QUESTION, 2)


async def test_connections_are_renewed_and_what_runs_on_them_is_not_cut(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitvlm.rpc.limits.CONNECTION_AGE_MS", 200)
    seen: list[str] = []

    class Noting(grpc.aio.ServerInterceptor):  # type: ignore[misc]
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            handler = await continuation(details)
            if not details.method.endswith("Check"):
                return handler

            async def noted(request: Any, context: Any) -> Any:
                seen.append(context.peer())
                return await handler.unary_unary(request, context)

            return grpc.unary_unary_rpc_method_handler(
                noted,
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )

    make = grpc.aio.server
    monkeypatch.setattr(
        grpc.aio, "server", lambda interceptors, **given: make(interceptors=[*interceptors, Noting()], **given)
    )
    caller = keys.identity("edge-1", Role.EDGE)
    async with (
        server(keys.identity("cloud-1", Role.CLOUD)) as node,
        open_channel(address_of(node), caller, Role.CLOUD) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == SERVING
        async with asyncio.timeout(60):
            while len(set(seen)) < 3:
                assert (await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)).status == SERVING
        assert not watching.done()
        watching.cancel()


@pytest.mark.parametrize("whose", ["own", "peer"])
async def test_who_asks_or_registers_hears_whose_certificate_expired(
    keys: Keys, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By certificates that really expire, since TLS has the machine's clock."""
    caplog.set_level("INFO")
    short, long = 3.0 / 86_400, 30.0  # days; the first is long enough to be issued and loaded on a busy machine
    roles = {"edge-1": Role.EDGE, "orchestrator": Role.ORCHESTRATOR, "viewer": Role.APP, "cloud-1": Role.CLOUD}
    is_short = {"edge-1": whose == "own", "orchestrator": whose == "peer", "viewer": whose == "own", "cloud-1": False}
    made = {
        name: load_identity(issue(keys.folder, name, role, days=short if is_short[name] else long))
        for name, role in roles.items()
    }
    edge = load_identity(issue(keys.folder, "edge-2", Role.EDGE, days=short if whose == "peer" else long))
    ended = made["viewer"] if whose == "own" else edge
    second = dt.timedelta(seconds=1)
    await until(lambda: ended.lifetime.has_expired(utc_now() - second))  # TLS counts whole seconds
    sentence = (
        "the certificate of viewer has expired, which is this node's own"
        if whose == "own"
        else ("The certificate of the edge node at .* has expired")
    )
    async with server(edge) as node:
        client = EdgeClient(address_of(node), made["viewer"])
        with pytest.raises(PeerUnavailable, match=sentence):
            await client.connect(1.0)
        await client.close()
    async with server(made["orchestrator"]) as node:
        control = ControlClient(address_of(node), made["edge-1"])
        beating = asyncio.create_task(control.stay_registered(control_pb2.Registration(), control_pb2.HeartbeatRequest))
        said = "the certificate of edge-1 has expired" if whose == "own" else "The certificate of the orchestrator at"
        await until(lambda: said in caplog.text)
        beating.cancel()
        await control.close()


async def test_a_running_node_says_that_its_certificate_expires(
    keys: Keys, clock: Callable[..., None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitvlm.rpc.servers.LOOK_S", 0.01)
    async with server(keys.identity("cloud-1", Role.CLOUD)):
        clock(days=21)
        await until(lambda: "The certificate of cloud-1 expires in 8 days" in caplog.text)
        clock(days=30, hours=5)
        await until(lambda: "The certificate of cloud-1 expired 5 hours ago" in caplog.text)


def test_what_is_said_of_an_expiring_certificate_is_said_hourly(
    keys: Keys, clock: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    monitor = ExpiryMonitor(keys.identity("edge-1", Role.EDGE))

    def said(now_s: float, **ahead: float) -> list[str]:
        clock(**ahead)
        caplog.clear()
        monitor.look(now_s)
        return [
            f"{record.levelname} {record.getMessage()}" for record in caplog.records if record.name == "splitvlm.keys"
        ]

    assert said(10.0) == said(11.0, days=19) == []
    (warning,) = said(12.0, days=21)
    assert warning.startswith("WARNING The certificate of edge-1 expires in 8 days (")
    assert warning.endswith(
        "Run `splitvlm keys rotate edge-1` and copy its files into this node's folder: they count at once."
    )
    assert said(13.0, days=21) == said(12.0 + 3_599, days=21) == []
    assert len(said(12.0 + 3_600, days=21)) == 1
    (error,) = said(3_613.0, days=33)
    assert error.startswith("ERROR The certificate of edge-1 expired 3 days ago (")
    _, authority = said(3_614.0, days=3_650 - 90), said(7_300.0, days=3_650 - 90)[-1]
    assert "The certificate of the authority expires in 89 days" in authority
    clock()
    rotate(keys.folder, "edge-1")
    assert said(9_000.0) == []
