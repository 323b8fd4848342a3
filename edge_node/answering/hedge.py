"""Two ways to one answer: the first token decides which of them gives it, and the other is cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from enum import StrEnum

_log = logging.getLogger("splitvlm.edge.hedge")


class Side(StrEnum):
    CLOUD = "cloud"
    DEVICE = "device"


Tokens = AsyncGenerator[int, None]


async def first_to_answer(sides: Mapping[Side, Tokens]) -> AsyncGenerator[tuple[Side, int], None]:
    """The tokens of the side whose first one comes first; all are from that side.

    A side that fails before its first token leaves the answer to the other. Raises the first side's error where all
    fail. Whoever is not needed any more is cancelled at once, and has ended when this ends.
    """
    firsts = {asyncio.create_task(_first(tokens)): side for side, tokens in sides.items()}
    try:
        side, token = await _winner(firsts)
        for task in firsts:
            task.cancel()
        while token is not None:
            yield side, token
            token = await _first(sides[side])
    finally:
        for task in firsts:
            task.cancel()
        await asyncio.gather(*firsts, return_exceptions=True)
        for tokens in sides.values():
            await tokens.aclose()


async def _first(tokens: Tokens) -> int | None:
    return await anext(tokens, None)


async def _winner(firsts: Mapping[asyncio.Task[int | None], Side]) -> tuple[Side, int | None]:
    waiting = set(firsts)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task, side in firsts.items():
            if task not in done:
                continue
            error = task.exception()
            if error is None:
                return side, task.result()
            _log.info("one side of a hedge failed: %s", error, extra={"side": str(side)})
    failed = next(iter(firsts)).exception()
    assert failed is not None
    raise failed
