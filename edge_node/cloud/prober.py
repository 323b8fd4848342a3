"""Probes one link while nothing else measures it: an estimate that is never refreshed would never bring a plan back."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence

import grpc

from edge_node.cloud.link_meter import LinkMeter
from edge_node.cloud.node_health import NodeHealth
from edge_node.cloud.session_pool import SessionPool
from splitvlm.errors import SplitvlmError
from splitvlm.link.estimator import STEP
from splitvlm.rpc.channels import connected
from splitvlm.rpc.status import from_rpc
from splitvlm.wire.v1 import data_pb2 as pb
from splitvlm.wire.v1 import data_pb2_grpc

PROBE_TIMEOUT_S = 5.0
LOOK_PERIOD_S = 0.5  # how often it is looked whether to probe


class Prober:
    """Finds out whether the node answers, how far it is and how fast, where requests leave that open."""

    def __init__(
        self,
        sessions: SessionPool,
        meter: LinkMeter,
        health: NodeHealth,
        deciding_bps: Callable[[float], Sequence[float]],
    ) -> None:
        """Takes `deciding_bps`, which gives for a round-trip time in s the uplink rates where the choice of plan changes."""
        self.deciding_bps = deciding_bps
        self.looked = asyncio.Event()  # once, whatever was found
        self._sessions = sessions
        self._meter = meter
        self._health = health
        self._looked_s = -math.inf  # of time.monotonic

    async def probe_forever(self) -> None:
        """Ends by cancellation."""
        while True:
            if self._sessions.num_taken == 0 and self._wait_s() <= 0:
                await self._sessions.renew()
                await self.probe()
            await asyncio.sleep(LOOK_PERIOD_S)

    async def probe(self) -> None:
        """Measures whatever is wanted and not known: the first session's set-up, a round trip, the rate."""
        self._looked_s = time.monotonic()
        sessions = self._sessions
        try:
            # A connection's own set-up must not pass for a round trip: it would hide the transfer's time for a while.
            await connected(sessions.channel, sessions.peer, sessions.identity, PROBE_TIMEOUT_S)
            stub = data_pb2_grpc.DataStub(sessions.channel)
            if self._meter.estimator.heard_s is None:
                await self._measure_first(stub)
            else:
                await self._refresh_estimate(stub)
            self._health.on_answer()
        except SplitvlmError as error:
            self._health.on_probe_error(error)
        except grpc.aio.AioRpcError as error:
            self._health.on_probe_error(from_rpc(error, sessions.peer))
        finally:
            self.looked.set()

    async def probe_once(self, stub: data_pb2_grpc.DataStub, payload_bytes: int) -> None:
        """Sends one probe with a payload of so many bytes; none measures the round trip. Raises AioRpcError."""
        request = pb.ProbeRequest(payload=os.urandom(payload_bytes))
        num_bytes = request.ByteSize()
        self._meter.on_probe_sent(num_bytes)
        started_s = time.monotonic()
        reply = await stub.Probe(request, timeout=PROBE_TIMEOUT_S)
        self._meter.on_probe(payload_bytes, num_bytes, time.monotonic() - started_s, reply.server_us)

    def _wait_s(self) -> float:
        """Returns the seconds until there may be something to probe."""
        now_s, schedule = time.monotonic(), self._meter.schedule
        if not self._health.reachable:
            return schedule.unreachable_wait_s(now_s, self._looked_s)
        return schedule.wait_s(now_s, self._meter.estimator) if self._sessions.connected else 0.0

    async def _measure_first(self, stub: data_pb2_grpc.DataStub) -> None:
        """Opens a session, which the first question needs, and whose set-up tells the rate as a probe of its size would."""
        for _ in range(2):  # the first call carries headers that later ones do not repeat
            await self.probe_once(stub, 0)
        if not self._sessions.idle:
            await self._sessions.warm_up()

    async def _refresh_estimate(self, stub: data_pb2_grpc.DataStub) -> None:
        now_s, meter = time.monotonic(), self._meter
        payload_bytes = self._telling_bytes(now_s)
        if not self._health.reachable or meter.schedule.empty_wait_s(now_s, meter.estimator) <= 0:
            await self.probe_once(stub, 0)
        for _ in range(2):  # another link is believed the second time: do not wait for the next look to ask again
            if not payload_bytes:
                break
            before_bps = meter.estimate().level_bps
            await self.probe_once(stub, payload_bytes)
            meter.schedule.spent(payload_bytes)
            if before_bps / STEP <= meter.estimator.last_bps <= before_bps * STEP:
                break
            payload_bytes = self._telling_bytes(time.monotonic())

    def _telling_bytes(self, now_s: float) -> int:
        """Returns the size of the probe that could change the choice of plan; 0: none could."""
        estimate = self._meter.estimate()
        return self._meter.schedule.size(estimate, self.deciding_bps(estimate.rtt_s), now_s)
