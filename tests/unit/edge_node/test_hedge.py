"""The race of two sources of tokens."""

from __future__ import annotations

import asyncio

import pytest

from edge_node.answering.hedge import Race
from edge_node.answering.side import Side
from edge_node.token_source import TokenSource
from tests.nodes import until


class Tokens(TokenSource):
    """Gives numbers once it may begin, or raises an error, and says when it was closed."""

    def __init__(self, numbers: list[int], begin: asyncio.Event, ended: list[str], name: str) -> None:
        super().__init__()
        self._numbers = iter(numbers)
        self._begin = begin
        self._ended = ended
        self._name = name

    async def _next(self) -> int | None:
        await self._begin.wait()
        return next(self._numbers, None)

    async def _close(self) -> None:
        self._ended.append(self._name)


class Failing(TokenSource):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def _next(self) -> int | None:
        raise self._error

    async def _close(self) -> None:
        pass


def now() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def test_all_tokens_are_of_the_side_that_began_and_the_other_ends_at_once() -> None:
    ended: list[str] = []
    cloud, device = Tokens([1, 2], asyncio.Event(), ended, "cloud"), Tokens([3, 4], now(), ended, "device")
    race = Race({Side.CLOUD: cloud, Side.DEVICE: device})
    assert (await anext(race), race.winner) == (3, Side.DEVICE)
    await until(lambda: ended == ["cloud"])
    assert await anext(race) == 4
    assert [token async for token in race] == []
    assert ended == ["cloud", "device"]


async def test_a_tie_is_the_clouds_and_an_empty_answer_is_an_answer() -> None:
    for numbers in ([1], []):
        race = Race({Side.CLOUD: Tokens(numbers, now(), [], ""), Side.DEVICE: Tokens([2], now(), [], "")})
        assert [token async for token in race] == numbers
        assert race.winner is Side.CLOUD


async def test_one_failure_is_no_error_and_two_are_the_clouds() -> None:
    device = Tokens([2], now(), [], "")
    race = Race({Side.CLOUD: Failing(OSError("cloud")), Side.DEVICE: device})
    assert [token async for token in race] == [2]
    assert race.winner is Side.DEVICE
    race = Race({Side.CLOUD: Failing(OSError("cloud")), Side.DEVICE: Failing(OSError("device"))})
    with pytest.raises(OSError, match="cloud"):
        await anext(race)


async def test_a_caller_that_is_cancelled_ends_both() -> None:
    ended: list[str] = []
    sides = {side: Tokens([1], asyncio.Event(), ended, str(side)) for side in Side}
    waiting = asyncio.ensure_future(anext(Race(sides)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert sorted(ended) == ["cloud", "device"]
