"""A cloud node without room says when to ask again; devices turn to others, wait, or answer alone; nothing is held for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cloud_node.settings import Limits
from edge_node.privacy import EVERYTHING_MAY_LEAVE
from edge_node.request import Request
from edge_node.servicer import LocalServicer
from splitvlm.crypto.identity import Role
from splitvlm.domain import Plan
from splitvlm.errors import CapacityError
from tests.nodes import Cloud, Device, Keys, cloud_node, device, until
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"
PLAN = "tokens/lossless"


@pytest.fixture(scope="module")
def model() -> str:
    return tiny_model("scenes-like")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
async def cloud(model: str, keys: Keys) -> AsyncIterator[Cloud]:
    async with cloud_node(model, keys, limits=Limits(requests_per_minute=2, max_sessions_per_device=1)) as made:
        yield made


@pytest.fixture
async def camera(model: str, keys: Keys, cloud: Cloud) -> AsyncIterator[Device]:
    async with device(model, cloud, keys.identity("edge-1", Role.EDGE)) as made:
        yield made


async def test_a_device_beyond_its_quota_is_told_when_to_come_back_and_others_are_served(
    model: str, keys: Keys, cloud: Cloud, camera: Device
) -> None:
    first = await camera.ask(PLAN, PICTURE, QUESTION, 2)
    await camera.ask(PLAN, PICTURE, QUESTION, 2)
    with pytest.raises(CapacityError, match="edge-1 has asked more than") as refused:
        await camera.ask(PLAN, PICTURE, QUESTION, 2)
    assert 10 < refused.value.retry_after_s <= 30
    assert not camera.link.has_room  # until then it is not asked, where the device or another can answer
    assert camera.link.reachable
    async with device(model, cloud, keys.identity("edge-2", Role.EDGE)) as other:
        assert (await other.ask(PLAN, PICTURE, QUESTION, 2)).token_ids == first.token_ids
    asked = (Plan.parse(PLAN), PICTURE, QUESTION, 2)
    alone = Request(camera.engine, camera.link, *asked, privacy=EVERYTHING_MAY_LEAVE, finish_alone=True)
    account = await camera.finish(alone)
    assert account.token_ids == first.token_ids
    assert [fault.code for fault in account.faults] == ["capacity"]


async def test_what_waits_for_room_gets_it_when_there_is_some(cloud: Cloud, camera: Device) -> None:
    """One session only, and it is busy: the second question is refused, waits, and is answered."""
    running = camera.request(PLAN, PICTURE, QUESTION, 64).tokens()
    await anext(running)
    waiting = asyncio.create_task(camera.ask(PLAN, PICTURE, QUESTION, 2))
    await until(lambda: cloud.servicer.refused["capacity"] == 1)
    await running.aclose()
    account = await asyncio.wait_for(waiting, 20)
    assert account.token_ids
    assert [fault.code for fault in account.faults] == ["capacity"]


async def test_memory_for_requests_is_counted_before_it_is_taken_and_comes_back(model: str, keys: Keys) -> None:
    limits = Limits(working_bytes=2**20)
    async with (
        cloud_node(model, keys, limits=limits) as cloud,
        device(model, cloud, keys.identity("e", Role.EDGE)) as camera,
    ):
        admission = cloud.servicer.admission
        others = [admission.hold(f"other-{number}") for number in range(10)]
        for number, other in enumerate(others, start=1):
            other.more(2 ** (20 - number))
        with pytest.raises(CapacityError, match="memory for running requests is full"):
            await camera.ask(PLAN, PICTURE, QUESTION, 2)
        for other in others:
            other.release()
        running = camera.request(PLAN, PICTURE, QUESTION, 64).tokens()
        await anext(running)
        assert admission.working_bytes > 1_000
        await running.aclose()
        await until(lambda: admission.working_bytes == 0)
        assert (await camera.ask(PLAN, PICTURE, QUESTION, 2)).token_ids
        await until(lambda: admission.working_bytes == 0)


@pytest.mark.parametrize("alone", [True, False])
async def test_a_node_without_room_is_left_alone_where_the_device_can_answer(
    cloud: Cloud, camera: Device, alone: bool
) -> None:
    servicer = LocalServicer(cast(Any, None), cast(Any, SimpleNamespace(can_finish_alone=alone)), None, plaintext=True)
    assert servicer._cloud_is_there(camera.link)
    for _ in range(2):
        await camera.ask(PLAN, PICTURE, QUESTION, 2)
    with pytest.raises(CapacityError):
        await camera.ask(PLAN, PICTURE, QUESTION, 2)
    assert servicer._cloud_is_there(camera.link) is not alone
    assert not servicer._cloud_is_there(None)
