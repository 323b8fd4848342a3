"""Tells the device's run beside it how far the cloud's side of an answer is."""

from __future__ import annotations

import asyncio
from enum import IntEnum


class Milestone(IntEnum):
    """Names what the cloud's side goes through, in order."""

    PREPARING = 0  # the device makes what crosses
    LEFT_DEVICE = 1  # all that crosses is made
    ENDED = 2  # no token comes from there any more


class CloudProgress:
    """Tells which milestone the cloud's side has reached; it never goes back."""

    def __init__(self) -> None:
        self.milestone = Milestone.PREPARING
        self._changed = asyncio.Event()

    def advance(self, milestone: Milestone) -> None:
        """Notes that the cloud's side has come to a milestone, or was there before."""
        if milestone > self.milestone:
            self.milestone = milestone
            self._changed.set()
            self._changed = asyncio.Event()

    async def reached(self, milestone: Milestone) -> None:
        """Waits until the cloud's side has come to a milestone."""
        while self.milestone < milestone:
            await self._changed.wait()
