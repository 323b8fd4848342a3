"""The race of two sources of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from edge_node.answering.hedge import Side, first_to_answer
from tests.nodes import until


async def tokens(numbers: list[int], begin: asyncio.Event, ended: list[str], name: str) -> AsyncGenerator[int, None]:
    try:
        await begin.wait()
        for number in numbers:
            yield number
    finally:
        ended.append(name)


def now() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_all_tokens_are_of_the_side_that_began_and_the_other_ends_at_once() -> None:
    ended: list[str] = []
    cloud, device = tokens([1, 2], asyncio.Event(), ended, "cloud"), tokens([3, 4], now(), ended, "device")
    race = first_to_answer({Side.CLOUD: cloud, Side.DEVICE: device})
    assert await anext(race) == (Side.DEVICE, 3)
    await until(lambda: ended == ["cloud"])
    assert await anext(race) == (Side.DEVICE, 4)
    assert [pair async for pair in race] == []
    assert ended == ["cloud", "device"]


async def test_a_tie_is_the_clouds_and_an_empty_answer_is_an_answer() -> None:
    for numbers in ([1], []):
        race = first_to_answer({Side.CLOUD: tokens(numbers, now(), [], ""), Side.DEVICE: tokens([2], now(), [], "")})
        assert [pair async for pair in race] == [(Side.CLOUD, number) for number in numbers]


async def failing(error: Exception) -> AsyncGenerator[int, None]:
    raise error
    yield 0


async def test_one_failure_is_no_error_and_two_are_the_clouds() -> None:
    device = tokens([2], now(), [], "")
    race = first_to_answer({Side.CLOUD: failing(OSError("cloud")), Side.DEVICE: device})
    assert [pair async for pair in race] == [(Side.DEVICE, 2)]
    race = first_to_answer({Side.CLOUD: failing(OSError("cloud")), Side.DEVICE: failing(OSError("device"))})
    with pytest.raises(OSError, match="cloud"):
        await anext(race)


async def test_a_caller_that_is_cancelled_ends_both() -> None:
    ended: list[str] = []
    sides = {side: tokens([1], asyncio.Event(), ended, str(side)) for side in Side}
    waiting = asyncio.ensure_future(anext(first_to_answer(sides)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert sorted(ended) == ["cloud", "device"]
