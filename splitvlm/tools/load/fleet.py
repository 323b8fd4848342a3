"""The simulated devices: each has its own certificate and link to the cloud node, over mutual TLS and sealed sessions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_node.cloud.exchange import Exchange
from edge_node.cloud.link import CloudLink
from splitvlm.errors import SplitvlmError
from splitvlm.tools.load.recording import RecordedRequest
from splitvlm.tools.load.timing import RequestTiming


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """Holds one request of the run: what is sent, how long its answer may become, and when it is due in an open loop."""

    recorded: RecordedRequest
    max_new_tokens: int
    due_s: float = 0.0  # seconds after the run's start; unused in a closed loop


class Fleet:
    """Devices that ask one cloud node. `on_end` is told of each request as it ends, for a progress bar."""

    def __init__(self, links: Sequence[CloudLink], on_end: Callable[[RequestTiming], None]) -> None:
        self._links = links
        self._on_end = on_end
        self._began_s = 0.0
        self._timings: list[RequestTiming] = []

    async def open(self) -> None:
        """Opens a session for each device, which is not part of the run. Raises what opening a session raises."""
        for start in range(0, len(self._links), 16):
            await asyncio.gather(*(link.sessions.warm_up() for link in self._links[start : start + 16]))

    async def closed_loop(self, requests: Sequence[PlannedRequest]) -> list[RequestTiming]:
        """Lets each device ask again when its answer has ended, until no request is left."""
        left = iter(requests)
        self._begin()

        async def device(index: int) -> None:
            for request in left:
                await self._ask(index, request)

        await asyncio.gather(*map(device, range(len(self._links))))
        return self._timings

    async def open_loop(self, requests: Sequence[PlannedRequest]) -> list[RequestTiming]:
        """Requests begin when they are due, by devices in turn, whatever is still under way."""
        self._begin()
        async with asyncio.TaskGroup() as tasks:
            for index, request in enumerate(requests):
                await asyncio.sleep(self._began_s + request.due_s - time.perf_counter())
                tasks.create_task(self._ask(index % len(self._links), request))
        return self._timings

    async def close(self) -> None:
        """Closes all links."""
        await asyncio.gather(*(link.close() for link in self._links))

    def _begin(self) -> None:
        self._timings = []
        self._began_s = time.perf_counter()

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._began_s

    async def _ask(self, device: int, request: PlannedRequest) -> None:
        timing = RequestTiming(device, self._elapsed_s())
        exchange = Exchange()
        cloud_request = request.recorded.request(request.max_new_tokens)
        try:
            async with contextlib.aclosing(self._links[device].answer(cloud_request, exchange)) as tokens:
                async for _ in tokens:
                    timing.token_times_s.append(self._elapsed_s())
        except SplitvlmError as error:
            timing.error_code = error.code
        timing.ended_s = self._elapsed_s()
        timing.bytes_sent = exchange.bytes_sent
        self._timings.append(timing)
        self._on_end(timing)
