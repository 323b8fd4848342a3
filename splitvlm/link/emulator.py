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
import json
import logging
import math
import signal
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from splitvlm.errors import PortError, UsageError
from splitvlm.link import tracefiles
from splitvlm.link.bottleneck import PACKET_BYTES, Bottleneck
from splitvlm.link.traces import LinkTrace, Trace

log = logging.getLogger(__name__)

DOWNLINK_BPS = 100e6  # where nothing is told of the downlink, it should not be what limits
QUEUE_BYTES = 32_768  # about 20 packets: the depth of a small access router
SOCKET_BUFFER_BYTES = 16_384  # the kernel doubles it; more would hide the queue from its sender
SENDERS_WINDOW_BYTES = 2_048
"""Receive buffer towards the device. A sender makes segments of half the largest window it has seen, and Linux takes a link on
which no whole one fits for longer than TCP_USER_TIMEOUT (gRPC sets 10 s) for dead, even while parts of them pass. So half
a window must fit into what one read makes free."""
LOG_BIN_S = 0.1
MAX_WAIT_S = 3600.0  # asyncio cannot wait for ever
CONNECT_S = 10.0

Delay = float | Callable[[float], float]
"""One-way propagation in seconds, fixed or by the time since the trace's start."""


@dataclass
class Direction:
    """One way over the link, shared by all connections."""

    name: str
    bottleneck: Bottleneck
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # first come, first served: fair between connections
    delivered_bytes: int = 0
    bins: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))  # delivered bytes by LOG_BIN_S

    def count(self, since_t0_s: float, n_bytes: int) -> None:
        self.delivered_bytes += n_bytes
        self.bins[int(since_t0_s / LOG_BIN_S)] += n_bytes

    def deliveries(self) -> list[tuple[float, int]]:
        """(start of the bin in seconds since t0, bytes delivered in it), without empty bins."""
        return [(round(number * LOG_BIN_S, 6), n_bytes) for number, n_bytes in sorted(self.bins.items())]


class LinkEmulator:
    """`async with LinkEmulator((host, 0), (host, 7000), trace) as link:` shapes what goes through `link.port`.

    `t0_s` is when the trace begins, on the clock of `time.monotonic`; None begins at the start.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        upstream: tuple[str, int],
        trace_up: Trace,
        trace_down: Trace | None = None,
        *,
        delay_s: Delay = 0.0,
        queue_bytes: int = QUEUE_BYTES,
        t0_s: float | None = None,
    ) -> None:
        self.listen, self.upstream = listen, upstream
        self.connections = 0  # accepted so far
        self.t0_s = t0_s if t0_s is not None else math.nan
        self._traces = (trace_up, trace_down or Trace.constant(DOWNLINK_BPS))
        self._delay = delay_s
        self._queue_bytes = queue_bytes
        self._passable = asyncio.Event()
        self._passable.set()
        self._refusing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> LinkEmulator:
        self._listener = _listen(self.listen)
        if math.isnan(self.t0_s):
            self.t0_s = time.monotonic()
        self.up, self.down = (
            Direction(name, Bottleneck(trace, self.t0_s, queue_bytes=self._queue_bytes))
            for name, trace in zip(("up", "down"), self._traces, strict=True)
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
        """The port that is listened on; the system's choice when 0 was asked for."""
        assert self._listener is not None, "not started"
        return int(self._listener.getsockname()[1])

    def cut(self, *, drop: bool = False) -> None:
        """Nothing passes any more. `drop` also resets all connections and refuses new ones, as a dying host would."""
        self._passable.clear()
        if drop:
            self._refusing = True
            for task in tuple(self._serving):
                task.cancel()

    def restore(self) -> None:
        """Everything passes again; what waited in a silent cut goes on."""
        for direction in (self.up, self.down):
            direction.bottleneck.hold(time.monotonic())
        self._refusing = False
        self._passable.set()

    def counters(self) -> dict[str, float]:
        """TCP payload bytes that were delivered, connections accepted, and seconds since the trace began."""
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
                _reset(client)
            else:
                task = self._spawn(self._serve(client))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        """One connection, until both ways are at their end or one side breaks."""
        sockets = [client]
        try:
            _tune(client)
            server = await _connect(self.upstream)
            sockets.append(server)
            await self._both_ways(client, server)
        except asyncio.CancelledError:
            _reset(*sockets)
            raise
        except OSError as broken:
            log.info("link connection broke: %s", broken)
            _reset(*sockets)
        finally:
            for sock in sockets:
                sock.close()

    async def _both_ways(self, client: socket.socket, server: socket.socket) -> None:
        """Until both are at their end. Raises the OSError of the one that breaks first."""
        try:
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._carry(client, server, self.up))
                ways.create_task(self._carry(server, client, self.down))
        except* OSError as broken:
            raise _first_of(broken) from broken

    async def _carry(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        """One way of a connection: read, queue, and hand to `_deliver`. An empty packet is the end, in its place."""
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

    async def _cross(self, n_bytes: int, direction: Direction) -> float:
        """Wait for room in the queue, then take it; when the packet will have arrived at the other end."""
        async with direction.turn:
            while (room_s := direction.bottleneck.room_at_s(time.monotonic())) > time.monotonic():
                await _sleep_until(room_s)
            await self._passable.wait()
            departure_s = direction.bottleneck.book(time.monotonic(), n_bytes)
        delay_s = self._delay if isinstance(self._delay, float | int) else self._delay(departure_s - self.t0_s)
        return departure_s + delay_s

    async def _deliver(
        self,
        air: asyncio.Queue[tuple[float, bytes]],
        reading: asyncio.Event,
        target: socket.socket,
        direction: Direction,
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


async def run(
    listen: tuple[str, int],
    upstream: tuple[str, int],
    trace: str,
    *,
    delay_s: float | None = None,
    down: str | None = None,
    queue_bytes: int = QUEUE_BYTES,
    log_file: Path | None = None,
) -> None:
    """The process `splitvlm link`: a ready line, then shaping until SIGTERM or SIGINT, then a JSON line of counters.

    The file's own downlink and round-trip times count unless `down` and `delay_s` (one way) say otherwise. `log_file`
    gets the deliveries as CSV `seconds,direction,bytes` in bins of 0.1 s.
    """
    told = tracefiles.load(trace)
    down_trace = tracefiles.load(down).up if down is not None else told.down
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    delay = _delay_of(told) if delay_s is None else delay_s
    started_unix_s = time.time()
    async with LinkEmulator(listen, upstream, told.up, down_trace, delay_s=delay, queue_bytes=queue_bytes) as link:
        where = f"listen={listen[0]}:{link.port} upstream={upstream[0]}:{upstream[1]}"
        print(f"link ready {where} trace={trace}", flush=True)
        await stop.wait()
        print(json.dumps({**link.counters(), "started_unix_s": round(started_unix_s, 3)}), flush=True)
        if log_file is not None:
            _write_log(log_file, link)


def _delay_of(told: LinkTrace) -> Delay:
    return (lambda since_t0_s: (told.rtt_s(since_t0_s) or 0.0) / 2) if told.rtt_knots else 0.0


def _write_log(path: Path, link: LinkEmulator) -> None:
    rows = sorted((at_s, way.name, n) for way in (link.up, link.down) for at_s, n in way.deliveries())
    text = "seconds,direction,bytes\n" + "".join(f"{at_s:.1f},{name},{n}\n" for at_s, name, n in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write the log {path}: {error.strerror}.") from error


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(min(at_s - time.monotonic(), MAX_WAIT_S))


def _listen(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Before listening: accepted sockets inherit them, and the window scale is fixed then.
        _small_buffers(listener, SENDERS_WINDOW_BYTES)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise PortError(
            f"Cannot listen on {address[0]}:{address[1]}: {error.strerror}.", advice="Choose another port, or 0."
        ) from error
    listener.setblocking(False)
    return listener


async def _connect(address: tuple[str, int]) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
    family, kind, proto, _, target = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        _small_buffers(sock)
        _tune(sock)
        async with asyncio.timeout(CONNECT_S):
            await loop.sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


def _small_buffers(sock: socket.socket, receive_bytes: int = SOCKET_BUFFER_BYTES) -> None:
    """Also a small segment: loopback's of 64 kB would not fit the buffer, and TCP would stall on it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, PACKET_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)


def _tune(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(*sockets: socket.socket) -> None:
    """Close so that the peers see a reset, and not an end of data that looks complete."""
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def _first_of(broken: BaseExceptionGroup[OSError]) -> OSError:
    first: BaseException = broken
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, OSError)
    return first
