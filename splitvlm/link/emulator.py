"""A TCP proxy that behaves like a recorded link: rate over time, delay, outages, a bounded queue. Real bytes and clock.

    sender --TCP--> [read at most what the queue takes] -> bottleneck (trace) -> delay -> --TCP--> receiver

All connections of a direction share one bottleneck. A sender is read only as fast as the queue empties, and the socket
buffers are small, so that back-pressure reaches it. Every wait is for an absolute time of the monotonic clock.

What it is not: packets are neither lost nor reordered, TCP's own congestion control is not emulated, a TCP handshake
costs no round trip, and payload bytes are counted, not headers (about 4 % of a real link's bytes).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType

from splitvlm.link.bottleneck import Bottleneck
from splitvlm.link.sockets import connect, listen, reset, tune
from splitvlm.link.traces import Trace

log = logging.getLogger(__name__)

DOWNLINK_BPS = 100e6  # where nothing is told of the downlink, it should not be what limits
QUEUE_BYTES = 32_768  # about 20 packets: the depth of a small access router
LOG_BIN_S = 0.1
MAX_WAIT_S = 3600.0  # asyncio cannot wait for ever

Delay = float | Callable[[float], float]
"""One-way propagation in seconds, fixed or by the time since the trace's start."""


@dataclass(frozen=True, slots=True)
class LinkShape:
    """Describes how an emulated link behaves; without `down` the downlink has DOWNLINK_BPS."""

    up: Trace
    down: Trace | None = None
    delay_s: Delay = 0.0
    queue_bytes: int = QUEUE_BYTES  # of each direction


@dataclass
class LinkDirection:
    """Holds the state of one way over the link, which all connections share."""

    name: str
    bottleneck: Bottleneck
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # first come, first served: fair between connections
    delivered_bytes: int = 0
    bins: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))  # delivered bytes by LOG_BIN_S

    def count(self, since_t0_s: float, n_bytes: int) -> None:
        """Counts bytes that were delivered so many seconds after the trace's start."""
        self.delivered_bytes += n_bytes
        self.bins[int(since_t0_s / LOG_BIN_S)] += n_bytes

    def deliveries(self) -> list[tuple[float, int]]:
        """Returns (start of the bin in seconds since t0, bytes delivered in it), without empty bins."""
        return [(round(number * LOG_BIN_S, 6), n_bytes) for number, n_bytes in sorted(self.bins.items())]


class LinkEmulator:
    """Shapes what goes through `link.port`: `async with LinkEmulator((host, 0), (host, 7000), LinkShape(trace)) as link:`.

    `t0_s` is when the trace begins, on the clock of `time.monotonic`; None begins at the start.
    """

    def __init__(
        self,
        address: tuple[str, int],
        upstream: tuple[str, int],
        shape: LinkShape,
        *,
        t0_s: float | None = None,
    ) -> None:
        self._address, self._upstream = address, upstream
        self.connections = 0  # accepted so far
        self.t0_s = t0_s if t0_s is not None else math.nan
        self._shape = shape
        self._passable = asyncio.Event()
        self._passable.set()
        self._refusing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> LinkEmulator:
        shape, self._listener = self._shape, listen(self._address)
        if math.isnan(self.t0_s):
            self.t0_s = time.monotonic()
        self.up, self.down = (
            LinkDirection(name, Bottleneck(trace, self.t0_s, queue_bytes=shape.queue_bytes))
            for name, trace in (("up", shape.up), ("down", shape.down or Trace.constant(DOWNLINK_BPS)))
        )
        self._spawn(self._accept(self._listener))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    @property
    def port(self) -> int:
        """Returns the port that is listened on; the system's choice when 0 was asked for."""
        assert self._listener is not None, "not started"
        return int(self._listener.getsockname()[1])

    def cut(self, *, drop: bool = False) -> None:
        """Stops all traffic. With `drop` it also resets all connections and refuses new ones, as a dying host would."""
        self._passable.clear()
        if drop:
            self._refusing = True
            for task in tuple(self._serving):
                task.cancel()

    def restore(self) -> None:
        """Lets everything pass again; what waited in a silent cut goes on."""
        for direction in (self.up, self.down):
            direction.bottleneck.block_until(time.monotonic())
        self._refusing = False
        self._passable.set()

    def counters(self) -> dict[str, float]:
        """Returns TCP payload bytes that were delivered, connections accepted, and seconds since the trace began."""
        up, down = self.up.delivered_bytes, self.down.delivered_bytes
        seconds = round(time.monotonic() - self.t0_s, 3)
        return {
            "up_bytes": up,
            "down_bytes": down,
            "total_bytes": up + down,
            "connections": self.connections,
            "seconds": seconds,
        }

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            self.connections += 1
            if self._refusing:
                reset(client)
            else:
                task = self._spawn(self._serve(client))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        """Serves one connection, until both ways are at their end or one side breaks."""
        sockets = [client]
        try:
            tune(client)
            server = await connect(self._upstream)
            sockets.append(server)
            await self._both_ways(client, server)
        except asyncio.CancelledError:
            reset(*sockets)
            raise
        except OSError as broken:
            log.info("link connection broke: %s", broken)
            reset(*sockets)
        finally:
            for sock in sockets:
                sock.close()

    async def _both_ways(self, client: socket.socket, server: socket.socket) -> None:
        """Carries both ways until both are at their end. Raises the OSError of the one that breaks first."""
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(client, server, self.up))
                ways.create_task(self._carry(server, client, self.down))
        except* OSError as broken:
            raise _first_of(broken) from broken

    async def _carry(self, source: socket.socket, target: socket.socket, direction: LinkDirection) -> None:
        """Carries one way of a connection: reads, queues, and hands to `_deliver`. An empty packet marks the end."""
        loop = asyncio.get_running_loop()
        air: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        reading = asyncio.Event()  # a receiver that does not read stops its own sender, and nobody else
        reading.set()
        async with asyncio.TaskGroup() as both:
            both.create_task(self._deliver(air, reading, target, direction))
            due_s = 0.0
            while True:
                packet = await loop.sock_recv(source, direction.bottleneck.quantum_bytes(time.monotonic()))
                await reading.wait()
                due_s = max(due_s, await self._cross(len(packet), direction))
                air.put_nowait((due_s, packet))
                if not packet:
                    return

    async def _cross(self, n_bytes: int, direction: LinkDirection) -> float:
        """Waits for room in the queue and takes it. Returns when the packet will have arrived at the other end."""
        async with direction.turn:
            while (free_at_s := direction.bottleneck.room_at_s(time.monotonic())) > time.monotonic():
                await _sleep_until(free_at_s)
            await self._passable.wait()
            departure_s = direction.bottleneck.book(time.monotonic(), n_bytes)
        delay = self._shape.delay_s
        delay_s = delay if isinstance(delay, float | int) else delay(departure_s - self.t0_s)
        return departure_s + delay_s

    async def _deliver(
        self,
        air: asyncio.Queue[tuple[float, bytes]],
        reading: asyncio.Event,
        target: socket.socket,
        direction: LinkDirection,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, packet = await air.get()
            while due_s > time.monotonic():
                await _sleep_until(due_s)
            await self._passable.wait()
            if not packet:
                with contextlib.suppress(OSError):  # the other way may have ended the connection already
                    target.shutdown(socket.SHUT_WR)
                return
            reading.clear()
            await loop.sock_sendall(target, packet)
            reading.set()
            direction.count(time.monotonic() - self.t0_s, len(packet))


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(min(at_s - time.monotonic(), MAX_WAIT_S))


def _first_of(broken: BaseExceptionGroup[OSError]) -> OSError:
    first: BaseException = broken
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, OSError)
    return first
