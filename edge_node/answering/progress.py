"""Tells the device's run beside it how far the cloud's side of an answer is."""

from __future__ import annotations

import asyncio
from enum import IntEnum


class Stage(IntEnum):
    """The cloud's side goes through these in order."""

    PREPARING = 0  # the device makes what crosses
    LEFT_DEVICE = 1  # all that crosses is made
    ENDED = 2  # no token comes from there any more


class CloudProgress:
    """The stage of the cloud's side, which never goes back."""

    def __init__(self) -> None:
        self.stage = Stage.PREPARING
        self._changed = asyncio.Event()

    def advance(self, stage: Stage) -> None:
        """The cloud's side has come to a stage, or was there before."""
        if stage > self.stage:
            self.stage = stage
            self._changed.set()
            self._changed = asyncio.Event()

    async def reached(self, stage: Stage) -> None:
        """Waits until the cloud's side has come to a stage."""
        while self.stage < stage:
            await self._changed.wait()
