"""The way to one cloud node: its channel, a few open sessions, and what the link did."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
import os
import struct
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace

import grpc
from PIL import Image

from edge_node.cloud.exchange import Exchange
from edge_node.cloud.payload import Payload
from edge_node.cloud.session import CloudSession
from splitvlm.crypto.identity import Identity, Role
from splitvlm.domain import Plan
from splitvlm.errors import CapacityError, PrefixEvicted, SplitvlmError
from splitvlm.files.pictures import to_rgb
from splitvlm.link.estimator import STEP, LinkEstimate, LinkEstimator
from splitvlm.link.probing import ProbeSchedule
from splitvlm.rpc.channels import connected, open_channel, own_certificate_expired
from splitvlm.rpc.limits import CHUNK_BYTES, CONNECT_TIMEOUT_S, PICTURE_NAME_BYTES
from splitvlm.rpc.status import from_rpc
from splitvlm.wire.v1 import data_pb2 as pb
from splitvlm.wire.v1 import data_pb2_grpc

PROBE_TIMEOUT_S = 5.0
LOOK_PERIOD_S = 0.5  # how often it is looked whether to probe
FIRST_LOOK_S = (
    2.0  # that a question waits for the first measurement, where it would wait for the session's set-up anyway
)
IDLE_SESSIONS = 4  # kept open for the next requests
MOST_REMEMBERED = 1_000  # pictures whose names are kept here; what the cloud node keeps of them is for it to say
STALLED = 2.0  # an upload that takes so many times its predicted time tells of the link before it ends


class CloudLink:
    """Sessions are opened as requests need them and kept for the next one. `reachable` follows probes and requests."""

    def __init__(
        self,
        address: str,
        compatibility: pb.Compatibility,
        identity: Identity | None,
        cuts: list[str],
        deciding_bps: Callable[[float], Sequence[float]] = lambda _rtt_s: (),
    ) -> None:
        """`deciding_bps` gives, for a round-trip time, the uplink rates at which the choice of plan changes."""
        self.address = address
        self.peer = f"cloud node at {address}"
        self.estimator = LinkEstimator()
        self._schedule = ProbeSchedule()
        self.deciding_bps = deciding_bps
        self.reachable = True
        self._full_until_s = 0.0
        self._compatibility = compatibility
        self._identity = identity
        self._cuts = cuts
        self._shown = identity  # as the channel shows it
        self._channel = open_channel(address, identity, Role.CLOUD)
        self._replaced: list[grpc.aio.Channel] = []  # by one with a newer certificate; requests may run over them
        self._idle: list[CloudSession] = []
        self._busy = 0
        self._holders = 0
        self._quiet = asyncio.Event()  # nobody holds it
        self._quiet.set()
        self._unbooked_bytes = 0
        self._looked_s = -math.inf  # last, for a node that was away
        self._looked = asyncio.Event()  # once, whatever was found
        self._opening: asyncio.Task[None] | None = None
        self._naming_key = os.urandom(32)  # another one for each cloud node: names tell nobody which pictures are alike
        self._remembered: OrderedDict[bytes, Plan] = OrderedDict()

    def name_of(self, picture: Image.Image) -> bytes:
        """What the cloud node may remember the picture under: a keyed hash of its pixels."""
        size = struct.pack("<II", *picture.size)
        return hmac.digest(self._naming_key, size + to_rgb(picture).tobytes(), "sha256")[:PICTURE_NAME_BYTES]

    def known(self, picture: bytes) -> Plan | None:
        """The plan under which the cloud node has seen the picture of this name, if it remembers it as far as is known here."""
        return self._remembered.get(picture)

    @property
    def has_room(self) -> bool:
        """Whether the node, when it last refused a request, said that it would have room by now."""
        return time.monotonic() >= self._full_until_s

    def estimate(self) -> LinkEstimate:
        return self.estimator.estimate(time.monotonic())

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """For as long as somebody may come to use it: until then `close_when_idle` waits."""
        self._holders += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._quiet.set()

    async def answer(self, payload: Payload, exchange: Exchange) -> AsyncGenerator[int, None]:
        """One request over a session of its own for its duration, while the link is held."""
        self._busy += 1
        session: CloudSession | None = None
        watching = asyncio.create_task(self._watch(payload, exchange))
        try:
            session = await self._session(payload.silence_timeout_s)
            timed = replace(payload, upload_s=self.estimate().transfer_s(payload.segments.largest_bytes))
            async with contextlib.aclosing(session.answer(timed, exchange)) as tokens:
                async for token in tokens:
                    yield token
            self._note(payload, exchange)
            self.reachable = True
        except PrefixEvicted:
            self._remembered.pop(payload.picture, None)
            raise
        except SplitvlmError as error:
            if isinstance(error, CapacityError):
                self._full_until_s = time.monotonic() + error.retry_after_s
            self.reachable = self.reachable and error.code not in ("peer-unavailable", "deadline")
            raise
        finally:
            self._busy -= 1
            watching.cancel()
            self._unbooked_bytes += exchange.bytes_sent
            self._schedule.sent(exchange.bytes_sent)
            if exchange.receipt.bytes:
                self._observe(exchange)  # also where the device was faster, or the node failed later
            elif exchange.upload_began_s is not None:
                self._on_stall(exchange)
            try:
                if session is not None:
                    await self._put_back(session)
            finally:
                if not self._busy:
                    await self._close_replaced()

    def asked(self) -> None:
        """A question came, wherever it is answered: while they come, the link is probed more often."""
        self._schedule.asked(time.monotonic())

    async def first_look(self) -> None:
        """Waits for the first measurement, but not for long: before it, the choice of plan knows nothing of the link."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._looked.wait()

    def take_bytes(self) -> int:
        """Bytes of requests, sessions and probes sent since the last call: what a metered link counts."""
        taken, self._unbooked_bytes = self._unbooked_bytes, 0
        return taken

    async def warm_up(self) -> None:
        """Open a session ahead of the first request. Raises what CloudSession.open raises."""
        self._idle.append(await self._open())

    def open_ahead(self) -> None:
        """A session for the next request, after one that was cancelled: that must not cost the next a handshake."""
        if self.reachable and not self._idle and (self._opening is None or self._opening.done()):
            self._opening = asyncio.create_task(self._warm_up_quietly())

    async def probe_forever(self) -> None:
        """Probe while nothing else measures: an estimate that is never refreshed would never bring a plan back."""
        while True:
            if self._busy == 0 and self._wait_s() <= 0:
                await self._renew()
                await self._probe()
            await asyncio.sleep(LOOK_PERIOD_S)

    async def close_when_idle(self) -> None:
        """Nobody asks over it any more; those who did are not cut off. Closes it too where it is not waited for."""
        try:
            await self._quiet.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for session in self._idle:
            await session.close()
        await self._channel.close()
        await self._close_replaced()

    def _wait_s(self) -> float:
        """Seconds until there may be something to probe."""
        now_s = time.monotonic()
        if not self.reachable:
            return self._schedule.unreachable_wait_s(now_s, self._looked_s)
        if self._channel.get_state() is not grpc.ChannelConnectivity.READY:  # its pings found nobody, or it was closed
            return 0.0
        return self._schedule.wait_s(now_s, self.estimator)

    async def _probe(self) -> None:
        """Whatever of the link is wanted and not known: the first session's set-up, a round trip, the rate."""
        self._looked_s = time.monotonic()
        try:
            # A connection's own set-up must not pass for a round trip: it would hide the transfer's time for a while.
            await connected(self._channel, self.peer, self._identity, PROBE_TIMEOUT_S)
            stub = data_pb2_grpc.DataStub(self._channel)
            if self.estimator.heard_s is None:
                await self._measure_first(stub)
            else:
                await self._measure_again(stub)
            self.reachable = True
        except SplitvlmError as error:
            self.reachable = error.code not in ("peer-unavailable", "deadline")
        except grpc.aio.AioRpcError as error:
            self.reachable = from_rpc(error, self.peer).code not in ("peer-unavailable", "deadline")
        finally:
            self._looked.set()

    async def _measure_first(self, stub: data_pb2_grpc.DataStub) -> None:
        """The first question needs a session, whose set-up tells of the rate what a probe of its size would."""
        for _ in range(2):  # the first call carries headers that later ones do not repeat
            await self._probe_once(stub, 0)
        if not self._idle:
            await self.warm_up()

    async def _measure_again(self, stub: data_pb2_grpc.DataStub) -> None:
        now_s = time.monotonic()
        size = self._schedule.size(self.estimate(), self.deciding_bps(self.estimate().rtt_s), now_s)
        if not self.reachable or self._schedule.empty_wait_s(now_s, self.estimator) <= 0:
            await self._probe_once(stub, 0)
        for _ in range(2):  # another link is believed the second time: do not wait for the next look to ask again
            if not size:
                break
            before_bps = self.estimate().level_bps
            await self._probe_once(stub, size)
            self._schedule.spent(size)
            if before_bps / STEP <= self.estimator.last_bps <= before_bps * STEP:
                break
            size = self._schedule.size(self.estimate(), self.deciding_bps(self.estimate().rtt_s), time.monotonic())

    async def _probe_once(self, stub: data_pb2_grpc.DataStub, size: int) -> None:
        request = pb.ProbeRequest(payload=os.urandom(size))
        self._unbooked_bytes += request.ByteSize()
        started_s = time.monotonic()
        reply = await stub.Probe(request, timeout=PROBE_TIMEOUT_S)
        now_s = time.monotonic()
        server_s = _believable_s(reply.server_us, now_s - started_s)
        if size == 0:
            self.estimator.on_rtt(now_s - started_s - server_s, now_s)
        self.estimator.on_transfer(request.ByteSize(), None, now_s - started_s, server_s, now_s, probe=size > 0)

    async def _watch(self, payload: Payload, exchange: Exchange) -> None:
        """Tell the estimator of an upload that hangs while it hangs, each time after twice as long."""
        wait_s = STALLED * self.estimate().transfer_s(payload.segments.largest_bytes)
        while not exchange.receipt.bytes:
            await asyncio.sleep(wait_s)
            if exchange.upload_began_s is not None and not exchange.receipt.bytes:
                self._on_stall(exchange)
                wait_s *= 2

    def _on_stall(self, exchange: Exchange) -> None:
        """At most what was sent crossed: what the sockets between here and there hold cannot be seen."""
        assert exchange.upload_began_s is not None
        away_s = time.perf_counter() - exchange.upload_began_s - self.estimate().rtt_s
        self.estimator.on_stall(exchange.upload_bytes, max(0.0, away_s), time.monotonic())

    def _observe(self, exchange: Exchange) -> None:
        """What the receipt says counts as far as it agrees with this device's own bytes and clock."""
        receipt, alone = exchange.receipt, exchange.received_bytes == exchange.receipt.bytes
        received_bytes = min(exchange.received_bytes, exchange.bytes_sent)
        span_s = _believable_s(receipt.span_us, exchange.upload_elapsed_s)
        self.estimator.on_transfer(
            received_bytes,
            span_s if span_s and alone else None,  # of several parts it is the last one's
            exchange.upload_elapsed_s,
            0.0,
            time.monotonic(),
            first_frame_bytes=min(CHUNK_BYTES, received_bytes),
        )

    def _note(self, payload: Payload, exchange: Exchange) -> None:
        if exchange.end.remembered:
            self._remembered[payload.picture] = payload.plan
            while len(self._remembered) > MOST_REMEMBERED:
                self._remembered.popitem(last=False)

    async def _renew(self) -> None:
        """Where this node's certificate was renewed, another channel and other sessions from now on."""
        newest = self._identity.newest() if self._identity is not None else None
        if newest is self._shown:
            return
        self._shown = newest
        self._replaced.append(self._channel)
        self._channel = open_channel(self.address, newest, Role.CLOUD)
        old, self._idle = self._idle, []
        for session in old:
            await session.close()

    async def _close_replaced(self) -> None:
        while self._replaced:
            await self._replaced.pop().close()

    async def _session(self, silence_timeout_s: float | None) -> CloudSession:
        await self._renew()
        while self._idle:
            session = self._idle.pop()
            if session.is_current:
                return session
            await session.close()
        return await self._open(min(CONNECT_TIMEOUT_S, silence_timeout_s or CONNECT_TIMEOUT_S))

    async def _open(self, timeout_s: float = CONNECT_TIMEOUT_S) -> CloudSession:
        if (expired := own_certificate_expired(self._identity, self.peer)) is not None:
            raise expired
        session = await CloudSession.open(
            self._channel, self.peer, self._compatibility, self._identity, self._cuts, timeout_s=timeout_s
        )
        self._unbooked_bytes += session.setup_bytes
        now_s = time.monotonic()
        self.estimator.on_transfer(session.hello_bytes, None, session.setup_s, 0.0, now_s)
        return session

    async def _put_back(self, session: CloudSession) -> None:
        if session.broken or len(self._idle) >= IDLE_SESSIONS:
            await session.close()
        else:
            self._idle.append(session)

    async def _warm_up_quietly(self) -> None:
        with contextlib.suppress(SplitvlmError):
            await self.warm_up()


def _believable_s(told_us: int, elapsed_s: float) -> float:
    """Seconds that the peer says it spent, or saw pass, within a call: no more than the call took by this device's clock."""
    return min(1e-6 * told_us, elapsed_s)
