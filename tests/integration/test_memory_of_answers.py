"""What an answer takes is given back with its end, however it ended: nothing of it waits for the garbage collector.

Tensors that refer to each other in a circle stay until a full pass, which comes seldom in a process of many objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from transformers import DynamicCache

from splitvlm.crypto.identity import Role
from splitvlm.errors import SplitvlmError
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.traces import Trace
from splitvlm.model.parts import LowerRun
from splitvlm.model.upper_run import UpperRun
from tests.nodes import Device, Keys, cloud_node, device, until
from tests.samples import PICTURE, tiny_model

PLANS = ("image/lossless", "vision:1/lossless", "tokens/lossless", "lm:1/lossless", "device")
QUESTIONS, TOKENS = 4, 8
HELD = (LowerRun, UpperRun, DynamicCache)


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def held() -> int:
    """Counts what holds tensors of requests, without what was there before the collector was switched off."""
    return sum(issubclass(type(thing), HELD) for thing in gc.get_objects())


@pytest.fixture
async def camera_and_link(tmp_path: Path) -> AsyncIterator[tuple[Device, LinkEmulator]]:
    model, keys = tiny_model("scenes-like"), Keys(tmp_path / "keys")
    async with cloud_node(model, keys) as cloud:
        host, _, port = cloud.address.rpartition(":")
        link = LinkEmulator(("127.0.0.1", 0), (host, int(port)), LinkShape(Trace.constant(20e6), delay_s=0.002))
        async with link, device(model, f"127.0.0.1:{link.port}", keys.identity("edge-1", Role.EDGE)) as camera:
            await camera.ask("tokens/lossless", PICTURE, "What?", TOKENS)  # what is made once is there
            yield camera, link


@pytest.mark.parametrize("plan", PLANS)
async def test_nothing_of_an_answer_stays(camera_and_link: tuple[Device, LinkEmulator], plan: str) -> None:
    camera, _ = camera_and_link
    with no_collector():
        for _ in range(QUESTIONS):
            await camera.ask(plan, PICTURE, "What?", TOKENS)
        await until(lambda: held() == 0)


@pytest.mark.parametrize("plan", PLANS)
async def test_nothing_of_a_cancelled_answer_stays(camera_and_link: tuple[Device, LinkEmulator], plan: str) -> None:
    camera, _ = camera_and_link
    with no_collector():
        for number in range(2 * QUESTIONS):
            asking = asyncio.create_task(camera.ask(plan, PICTURE, "What?", TOKENS))
            await asyncio.wait([asking], timeout=0.01 * number)  # in another step of the request each time
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            del asking
        await until(lambda: held() == 0)


@pytest.mark.parametrize("plan", PLANS[:-1])
async def test_nothing_of_a_broken_answer_stays(camera_and_link: tuple[Device, LinkEmulator], plan: str) -> None:
    camera, link = camera_and_link
    with no_collector():
        for number in range(QUESTIONS):
            asking = asyncio.create_task(camera.ask(plan, PICTURE, "What?", TOKENS, finish_alone=number % 2 == 0))
            await asyncio.wait([asking], timeout=0.02 * number)
            link.cut(drop=True)
            link.restore()
            with contextlib.suppress(SplitvlmError):
                await asking
            del asking
        await until(lambda: held() == 0)
