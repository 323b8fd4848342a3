"""Two ways to one answer: the first token decides which of them gives it, and the other is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from edge_node.answering.preparation import Preparation
from edge_node.answering.progress import CloudProgress, Milestone
from edge_node.answering.report import RequestReport
from edge_node.answering.side import Side
from edge_node.engine import DeviceEngine
from edge_node.token_source import TokenSource

_log = logging.getLogger("splitvlm.edge.hedge")


class Race(TokenSource):
    """Gives the tokens of the side whose first one comes first.

    A side that fails before its first token leaves the answer to the other. Raises the first side's error where all
    fail. Whoever is not needed any more is cancelled at once, and has ended when this has.
    """

    def __init__(self, sides: Mapping[Side, TokenSource]) -> None:
        super().__init__()
        self.winner: Side | None = None
        self._sides = sides
        self._firsts: dict[asyncio.Task[int | None], Side] = {}

    async def _next(self) -> int | None:
        if self.winner is not None:
            return await anext(self._sides[self.winner], None)
        self._firsts = {asyncio.create_task(_first(source)): side for side, source in self._sides.items()}
        self.winner, token_id = await self._won()
        for task in self._firsts:
            task.cancel()
        return token_id

    async def _close(self) -> None:
        for task in self._firsts:
            task.cancel()
        await asyncio.gather(*self._firsts, return_exceptions=True)
        for source in self._sides.values():
            await source.aclose()

    async def _won(self) -> tuple[Side, int | None]:
        """Waits for the first token of any side; the earlier side's where two come at once."""
        waiting = set(self._firsts)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task, side in self._firsts.items():
                if task not in done:
                    continue
                error = task.exception()
                if error is None:
                    return side, task.result()
                _log.info("one side of a hedge failed: %s", error, extra={"side": str(side)})
        error = next(iter(self._firsts)).exception()
        assert error is not None
        raise error


class HedgeAttempt(TokenSource):
    """Gives the answer from the device alone, beside the plan.

    It begins when the plan's payload has left the device (it must not delay the upload), at `hedge_after_s` of the request's
    clock, or when the cloud's side has ended. Its tokens are held until the answer is complete: the cloud's, if it comes,
    is finished sooner (docs/adr/0004).
    """

    def __init__(
        self,
        engine: DeviceEngine,
        preparation: Preparation,
        report: RequestReport,
        progress: CloudProgress,
        wait_s: Callable[[], float],
    ) -> None:
        """Takes in `wait_s` what gives the seconds until the hedge's time has come."""
        super().__init__()
        self._engine = engine
        self._preparation = preparation
        self._report = report
        self._progress = progress
        self._wait_s = wait_s
        self._tokens: Iterator[int] | None = None
        self._held: deque[int] = deque()
        self._complete = False

    async def _next(self) -> int | None:
        if self._tokens is None:
            self._tokens = await self._begun()
        while not self._complete and not (self._held and self._progress.milestone is Milestone.ENDED):
            token_id, token_s = await self._engine.next(self._tokens)
            self._report.hedge_s += token_s
            if token_id is None:
                self._complete = True
            else:
                self._held.append(token_id)
        return self._held.popleft() if self._held else None

    async def _close(self) -> None:
        self._held.clear()

    async def _begun(self) -> Iterator[int]:
        await self._progress.reached(Milestone.LEFT_DEVICE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._wait_s())):
                await self._progress.reached(Milestone.ENDED)
        self._report.hedged = True
        tokens, self._report.hedge_s = await self._preparation.begin_alone(())
        return tokens


async def _first(source: TokenSource) -> int | None:
    return await anext(source, None)
