"""What the `privacy` section promises, on a real link whose bytes are counted: whoever asks, and whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_node.answering.report import RequestReport
from edge_node.audit import AuditLog
from edge_node.node import take_settings
from edge_node.privacy import PrivacyDoor
from edge_node.settings import Privacy
from splitvlm.crypto.identity import Role
from splitvlm.domain import DEVICE, IMAGE, TOKENS, Plan
from splitvlm.errors import ConfigError, PrivacyRefused, SplitvlmError
from splitvlm.host_port import host_and_port
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.traces import Trace
from splitvlm.model.loading import read_spec
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from splitvlm.planning.table import PlanTable
from tests.edge import LEAKS, QUESTION, TABLE, edge_node
from tests.nodes import Cloud, Device, Keys, cloud_node, device, until
from tests.samples import PICTURE, tiny_model

DEVICE_ONLY = Privacy(mode="device_only")
HALF = Privacy(mode="max_leak", max_leak=0.5)


async def test_device_only_dials_nobody_whoever_names_a_node_or_a_plan(tmp_path: Path) -> None:
    async with edge_node(tmp_path, DEVICE_ONLY) as node:
        for _ in range(2):  # the second about a picture whose prefix a node could cache
            report = await node.ask()
            assert (report.plan, report.answered_by, report.bytes_sent) == ("device/none", "device", 0)
        for plan in ("image/jpeg50", "tokens/int4", "tokens/lossless", "vision:1/lossless", "lm:1/lossless"):
            with pytest.raises(PrivacyRefused, match=f"{plan} is forbidden by privacy.mode"):
                await node.ask(plan=plan)
        node.runtime.clouds.use([f"127.0.0.1:{node.link.port}", "127.0.0.1:9"])  # as an orchestrator's table does
        node.planner.table = PlanTable(2, TABLE.lines)
        assert (await node.ask()).answered_by == "device"
        assert (node.runtime.clouds.link, list(node.runtime.clouds.standby)) == (None, [])
        assert node.nothing_left
        assert [(one["sealed_bytes"], one["leak"], one["outcome"]) for one in node.audited()] == 3 * [
            (0, 0.0, "answered")
        ]


async def test_device_only_has_no_way_out_where_the_device_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with edge_node(tmp_path, DEVICE_ONLY) as node:

        async def fails(*_: object) -> None:
            raise SplitvlmError("no memory")

        monkeypatch.setattr(node.runtime.engine, "start", fails)
        with pytest.raises(SplitvlmError, match="no memory"):
            await node.ask()
        assert node.nothing_left
        assert [one["outcome"] for one in node.audited()] == ["unfinished"]


async def test_a_reload_shuts_and_opens_the_door(tmp_path: Path) -> None:
    async with edge_node(tmp_path, Privacy()) as node:
        assert (await node.ask(plan="tokens/int4")).bytes_sent > 0
        node.settings(DEVICE_ONLY)
        assert node.runtime.clouds.link is None
        await until(
            lambda: not node.runtime.clouds.is_retiring
        )  # the channel is closed: what leaves now needs another connection
        await until(lambda: node.clouds[0].servicer.active.total() == 0)
        before = node.link.counters()["connections"]
        assert (await node.ask()).answered_by == "device"
        with pytest.raises(PrivacyRefused):
            await node.ask(plan="tokens/int4")
        assert node.link.counters()["connections"] == before
        node.settings(Privacy())
        assert (await node.ask(plan="tokens/int4")).bytes_sent > 0


async def test_a_reload_that_cannot_hold_changes_nothing(tmp_path: Path) -> None:
    async with edge_node(tmp_path, HALF) as node:
        new = node.runtime.settings.model_copy(update={"privacy": DEVICE_ONLY})
        with pytest.raises(ConfigError, match="does not serve the cut device"):
            take_settings(new, (IMAGE, TOKENS), node.runtime, node.planner)
        with pytest.raises(PrivacyRefused, match=r"tokens/lossless leaks 0\.90"):
            await node.ask(plan="tokens/lossless")


async def test_a_limit_lets_out_what_was_measured_below_it_and_has_no_prefix_cached(tmp_path: Path) -> None:
    async with edge_node(tmp_path, HALF) as node:
        assert node.planner.table is not None
        assert [str(one.plan) for one in node.planner.table.lines] == ["tokens/int4", "device/none"]
        for _ in range(2):
            report = await node.ask(plan="tokens/int4")
            assert (report.answered_by, report.prefix_cached) == ("cloud", False)
            assert report.bytes_sent > 0
        assert node.clouds[0].worker.runtime.prefix_cache.num_bytes == 0
        before = node.link.up.delivered_bytes
        for plan, why in [
            ("image/lossless", "what it leaks was not measured"),
            ("tokens/int8", "what it leaks was not measured"),
            ("tokens/lossless", "leaks 0.90 of a picture, and privacy.max_leak is 0.5"),
        ]:
            with pytest.raises(PrivacyRefused, match=why):
                await node.ask(plan=plan)
        assert node.link.up.delivered_bytes - before < 1_000  # a probe's, at most
        assert [(one["plan"], one["leak"]) for one in node.audited()] == 2 * [("tokens/int4", 0.4)]
        assert all(one["sealed_bytes"] > 0 for one in node.audited())


@pytest.fixture
async def camera(tmp_path: Path) -> AsyncIterator[tuple[Device, LinkEmulator]]:
    model, keys = tiny_model("scenes-like"), Keys(tmp_path / "keys")
    async with (
        cloud_node(model, keys) as cloud,
        LinkEmulator(("127.0.0.1", 0), host_and_port(cloud.address), LinkShape(Trace.constant(1e8))) as link,
    ):
        behind = Cloud(f"127.0.0.1:{link.port}", cloud.servicer, cloud.worker, cloud.compatibility)
        async with device(model, behind, keys.identity("edge-1", Role.EDGE)) as edge:
            yield edge, link


@pytest.mark.parametrize("privacy", [DEVICE_ONLY, HALF], ids=["device only", "a limit"])
@pytest.mark.parametrize(
    "plan", ["image/jpeg75", "vision:1/lossless", "tokens/lossless", "tokens/int8", "lm:1/lossless"]
)
async def test_the_door_is_asked_before_each_attempt_whoever_chose_the_plan(
    camera: tuple[Device, LinkEmulator], privacy: Privacy, plan: str
) -> None:
    edge, link = camera
    asked = (plan, PICTURE, QUESTION, 4)
    door = PrivacyDoor(privacy, LEAKS)
    with pytest.raises(PrivacyRefused):
        await edge.ask(*asked, privacy=door, prefix_names=(b"12345678",), standby=[edge.link])
    expected = reference_tokens(tiny_model("scenes-like"), [Prompt.about(PICTURE, QUESTION)], 4)[0]
    for more in ({"finish_alone": True}, {"hedge_after_s": 0.0}, {"finish_alone": True, "standby": [edge.link]}):
        report = await edge.ask(*asked, privacy=door, **more)
        assert (report.token_ids, report.answered_by) == (expected, "device")
        assert report.exchange.bytes_sent == 0
    assert (link.up.delivered_bytes, link.counters()["connections"]) == (0, 0)


async def test_a_take_over_after_the_door_was_shut_stays_on_the_device(camera: tuple[Device, LinkEmulator]) -> None:
    edge, _ = camera
    door = PrivacyDoor(Privacy(), LEAKS)
    expected = reference_tokens(tiny_model("scenes-like"), [Prompt.about(PICTURE, QUESTION)], 8)[0]
    run = edge.run(
        "tokens/lossless", Prompt.about(PICTURE, QUESTION), 8, privacy=door, standby=[edge.link], finish_alone=True
    )
    async with asyncio.timeout(60), contextlib.aclosing(run) as tokens:
        async for _ in tokens:
            if len(run.report.token_ids) == 1:
                door.use(DEVICE_ONLY)
                await edge.link.close()
    assert run.report.token_ids == expected
    assert run.report.answered_by == "device"
    assert len(run.report.faults) == 1, "the standby was not asked"


async def test_the_audit_log_is_bounded_and_its_owner_s(tmp_path: Path) -> None:
    async with edge_node(tmp_path, DEVICE_ONLY) as node:
        report = RequestReport(Plan.parse("device"))
        log = AuditLog(node.audit, 4_096)
        for _ in range(100):
            log.write(report, 0.0, "answered")
        sizes = [path.stat().st_size for path in sorted(node.audit.parent.iterdir())]
        assert len(sizes) == 2
        assert all(0 < size <= 4_096 for size in sizes)
        assert node.audit.stat().st_mode & 0o077 == 0
        assert len({line["request"] for line in node.audited()}) == 1


def test_an_audit_log_that_cannot_be_written_stops_the_node_at_its_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "log.jsonl"):
        with pytest.raises(ConfigError, match=r"privacy\.audit_log: .* cannot be written"):
            AuditLog(path, 4_096)


def test_every_cut_of_the_model_has_been_thought_of() -> None:
    door = PrivacyDoor(DEVICE_ONLY, {})
    allowed = [cut for cut in read_spec(tiny_model("scenes-like")).cuts() if door.allows(Plan(cut, "lossless"))]
    assert allowed == [DEVICE]
