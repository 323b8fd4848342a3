"""Carries calls from the engine's thread to event loops, those of one pass together.

Each wake of an event loop is a system call after which both threads want the interpreter: sixteen of them after each pass held
the next pass up for longer than choosing its tokens does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


class Handover:
    """Is used from one thread, which is no event loop's."""

    def __init__(self) -> None:
        self._held: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] | None = None

    def call(self, loop: asyncio.AbstractEventLoop, method: Callable[..., None], *args: Any) -> None:
        """Calls a method in an event loop, in the order of calls; not where the loop has ended."""
        if self._held is None:
            _call_soon(loop, partial(method, *args))
        else:
            self._held.setdefault(loop, []).append(partial(method, *args))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Holds the calls that are made within back until its end, and wakes each loop once."""
        self._held = {}
        try:
            yield
        finally:
            held, self._held = self._held, None
            for loop, calls in held.items():
                _call_soon(loop, partial(_all, calls))


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def _all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()
