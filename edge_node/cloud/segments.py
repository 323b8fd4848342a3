"""A payload in its segments, one a tile: the first is sent while the others are made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

MakeSegment = Callable[[int], Awaitable[bytes]]
"""Makes the segment of an index. It is called in order, and once more where a call was cancelled."""


class Segments:
    """Segments that are made when they are first asked for, and kept: whoever sends them once more gets the same bytes.

    A payload has at least one, which may be empty.
    """

    def __init__(self, count: int, make: MakeSegment) -> None:
        self.count = count
        self._make = make
        self._made: list[bytes] = []
        self._making = asyncio.Lock()

    @classmethod
    def of(cls, *made: bytes) -> Segments:
        """Returns a payload of segments that are made already; without any it is one empty segment."""
        segments = cls(max(1, len(made)), _nothing_more)
        segments._made.extend(made or (b"",))
        return segments

    @property
    def complete(self) -> bool:
        """Tells whether all segments are made."""
        return len(self._made) == self.count

    @property
    def largest_bytes(self) -> int:
        """Returns the largest size of the segments that are made: tiles are much alike."""
        return max(map(len, self._made), default=0)

    async def segment(self, index: int) -> bytes:
        """Returns a segment; all before it are made first."""
        async with self._making:
            while len(self._made) <= index:
                self._made.append(await self._make(len(self._made)))
        return self._made[index]


async def _nothing_more(_index: int) -> bytes:
    raise AssertionError("All segments are made already.")
