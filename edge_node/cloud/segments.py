"""A payload in its parts, one a tile: the first is sent while the others are made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

MakePart = Callable[[int], Awaitable[bytes]]
"""Gives the part at a place; it is asked for them in their order, and may be asked again where it was cancelled."""


class Segments:
    """Parts that are made when they are first asked for, and kept: whoever sends them once more gets the same."""

    def __init__(self, count: int, make: MakePart) -> None:
        self.count = count
        self._make = make
        self._made: list[bytes] = []
        self._making = asyncio.Lock()

    @classmethod
    def of(cls, data: bytes) -> Segments:
        """One part that is there."""
        parts = cls(1, partial(_never, data))
        parts._made.append(data)
        return parts

    @property
    def complete(self) -> bool:
        return len(self._made) == self.count

    @property
    def largest_bytes(self) -> int:
        """The largest size of those that are made: tiles are much alike."""
        return max(map(len, self._made), default=0)

    async def part(self, place: int) -> bytes:
        async with self._making:
            while len(self._made) <= place:
                self._made.append(await self._make(len(self._made)))
        return self._made[place]


async def _never(data: bytes, _place: int) -> bytes:
    return data
