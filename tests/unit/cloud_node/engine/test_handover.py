"""Calls reach the event loop in their order, those of a pass with one wake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloud_node.engine.handover import Handover


async def test_calls_of_a_pass_come_together_and_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    wakes = 0
    original = loop.call_soon_threadsafe

    def counted(callback: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Handle:
        nonlocal wakes
        wakes += 1
        return original(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    handover, seen = Handover(), list[int]()
    arrived = asyncio.Event()

    def run() -> None:
        handover.call(loop, seen.append, 0)
        with handover.together():
            for number in range(1, 5):
                handover.call(loop, seen.append, number)
            assert wakes == 1, "they are held back"
        assert wakes == 2
        handover.call(loop, arrived.set)

    await asyncio.to_thread(run)
    await arrived.wait()
    assert seen == [0, 1, 2, 3, 4]


async def test_what_a_failing_pass_has_told_arrives() -> None:
    loop, handover, seen = asyncio.get_running_loop(), Handover(), list[int]()

    def run() -> None:
        with handover.together():
            handover.call(loop, seen.append, 7)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await asyncio.to_thread(run)
    assert seen == [7]


def test_an_event_loop_that_has_ended_is_left_alone() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    Handover().call(loop, lambda: None)
