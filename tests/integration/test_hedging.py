"""A hedged question: the device beside the cloud, over a real link that slows, holds or breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_node.answering.report import RequestReport
from edge_node.answering.run import AnswerRun
from splitvlm.crypto.identity import Role
from splitvlm.errors import UsageError
from splitvlm.host_port import host_and_port
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.traces import Trace
from splitvlm.model.prompt import Prompt
from tests.nodes import Cloud, Device, Keys, cloud_node, device, until
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"
NEVER_S = 1e6
FAST_BPS, SLOW_BPS = 1e8, 8e3
PLANS = ("image/lossless", "vision:1/lossless", "tokens/lossless", "lm:1/lossless")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@contextlib.asynccontextmanager
async def nodes(keys: Keys, uplink_bps: float) -> AsyncIterator[tuple[Device, Cloud, LinkEmulator]]:
    """A cloud node, and a device with an open session behind a link of that rate."""
    model = tiny_model("scenes-like")
    async with cloud_node(model, keys, name="cloud-1") as cloud:
        upstream = host_and_port(cloud.address)
        async with LinkEmulator(("127.0.0.1", 0), upstream, LinkShape(Trace.constant(uplink_bps))) as link:
            behind = Cloud(f"127.0.0.1:{link.port}", cloud.servicer, cloud.worker, cloud.compatibility)
            async with device(model, behind, keys.identity("edge-1", Role.EDGE)) as edge:
                await edge.link.sessions.warm_up()
                yield edge, cloud, link


def hedged(edge: Device, plan: str, after_s: float) -> AnswerRun:
    return edge.run(plan, Prompt.about(PICTURE, QUESTION), 16, hedge_after_s=after_s)


async def answer(run: AnswerRun) -> tuple[list[int], RequestReport]:
    return [token async for token in run], run.report


@pytest.mark.parametrize("plan", PLANS)
async def test_the_cloud_wins_and_answers_alone(keys: Keys, plan: str) -> None:
    async with nodes(keys, FAST_BPS) as (edge, cloud, _):
        whole = await edge.ask("device", PICTURE, QUESTION)
        tokens, report = await answer(hedged(edge, plan, NEVER_S))
        assert tokens == report.token_ids == whole.token_ids
        assert (report.answered_by, report.hedged, report.hedge_s) == ("cloud", False, 0.0)
        assert report.exchange.bytes_sent > 0
        await until(lambda: cloud.servicer.active.total() == 1)  # the session was kept


@pytest.mark.parametrize("plan", PLANS)
async def test_the_device_wins_and_the_cloud_is_freed(keys: Keys, plan: str) -> None:
    async with nodes(keys, FAST_BPS) as (edge, cloud, link):
        whole = await edge.ask("device", PICTURE, QUESTION)
        await until(lambda: cloud.servicer.active.total() == 1)
        link.cut(drop=False)
        tokens, report = await answer(hedged(edge, plan, 0.0))
        assert tokens == report.token_ids == whole.token_ids
        assert (report.answered_by, report.hedged) == ("device", True)
        assert report.hedge_s > 0
        assert report.exchange.bytes_sent > 0
        assert report.first_token_s <= report.total_s
        edge.link.health.reachable = False  # no session ahead: what is left must be nothing
        link.restore()
        await until(lambda: cloud.servicer.active.total() <= 1)
        assert (await edge.ask(plan, PICTURE, QUESTION)).token_ids == whole.token_ids


async def test_a_link_that_breaks_in_mid_upload_loses_no_answer(keys: Keys) -> None:
    async with nodes(keys, SLOW_BPS) as (edge, _, link):
        whole = await edge.ask("device", PICTURE, QUESTION)
        run = hedged(edge, "image/lossless", NEVER_S)  # the device begins only because the cloud failed
        running = asyncio.create_task(answer(run))
        await until(lambda: run.report.exchange.upload.began_s is not None)
        link.cut(drop=True)
        tokens, report = await running
        assert tokens == whole.token_ids
        assert (report.answered_by, report.hedged) == ("device", True)


async def test_a_device_that_fails_leaves_the_answer_to_the_cloud(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(keys, 1e6) as (edge, _, _):
        whole = await edge.ask("device", PICTURE, QUESTION)

        async def fails(*_: object) -> None:
            raise UsageError("no memory")

        monkeypatch.setattr(edge.engine, "go_on", fails)
        tokens, report = await answer(hedged(edge, "tokens/lossless", 0.0))
        assert tokens == whole.token_ids
        assert report.answered_by == "cloud"


async def test_where_both_fail_the_plans_own_error_shows(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(keys, FAST_BPS) as (edge, _, _):

        async def fails(*_: object) -> None:
            raise UsageError("a picture that cannot be read")

        monkeypatch.setattr(edge.engine, "begin", fails)
        monkeypatch.setattr(edge.engine, "start", fails)
        with pytest.raises(UsageError, match="cannot be read"):
            await answer(hedged(edge, "tokens/lossless", 0.0))


async def test_a_caller_that_goes_away_stops_both_sides(keys: Keys) -> None:
    async with nodes(keys, FAST_BPS) as (edge, cloud, _):
        running = hedged(edge, "tokens/lossless", 0.0)
        await anext(running)
        await running.aclose()
        await until(lambda: cloud.servicer.active.total() == 0)


async def test_an_upload_that_the_device_overtook_tells_of_the_link(keys: Keys) -> None:
    async with nodes(keys, SLOW_BPS) as (edge, _, _):
        before = edge.link.estimate()
        while edge.link.estimate().uplink_bps > before.uplink_bps / 2:
            _, report = await answer(hedged(edge, "image/lossless", 0.1))
            assert report.answered_by == "device"
        assert edge.link.meter.take_bytes() > 0
