"""Keeps a node registered at the orchestrator: registers, sends heartbeats, registers anew when it is not known, leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable

import grpc

from splitvlm.crypto.identity import Identity, Role
from splitvlm.errors import CapacityError, DeadlineExceeded, PeerUnavailable, SplitvlmError, UsageError
from splitvlm.rpc.channels import open_channel, own_certificate_expired
from splitvlm.rpc.control_messages import heartbeat_period_s
from splitvlm.rpc.limits import CONTROL_TIMEOUT_S
from splitvlm.rpc.status import from_rpc
from splitvlm.wire.v1 import control_pb2 as pb
from splitvlm.wire.v1 import control_pb2_grpc

_log = logging.getLogger("splitvlm.control")
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 8.0
MAX_NOTED = 16  # sentences: an orchestrator that says another one each time does not fill the log
LEAVE_TIMEOUT_S = 1.0  # a node that stops does not wait for an orchestrator that is away


def retry_s(failures: int, error: SplitvlmError | None = None) -> float:
    """Returns how long to wait after so many failures in a row: doubled each time, and drawn, so that a fleet is spread."""
    longest_s = min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 16), LAST_RETRY_S)
    asked_s = error.retry_after_s if isinstance(error, CapacityError) else 0.0
    return min(asked_s, LAST_RETRY_S) + longest_s * random.uniform(0.5, 1.0)


class ControlClient:
    """Speaks to one orchestrator. `reachable` is whether it answered the last call, be it with a refusal."""

    def __init__(self, address: str, identity: Identity | None) -> None:
        self.peer = f"orchestrator at {address}"
        self.instance = secrets.token_hex(
            8
        )  # of this process: a node that starts again is told from a second one of its name
        self._address = address
        self._identity = identity
        self._shown = identity  # as the newest channel shows it
        self._channels = [open_channel(address, identity, Role.ORCHESTRATOR)]  # older ones may carry a stream still
        self.reachable = False
        self._renewal_asked = asyncio.Event()
        self._leaving = False
        self._noted: set[str] = set()  # sentences that were logged since the last registration

    @property
    def stub(self) -> control_pb2_grpc.ControlStub:
        """Returns the stub over a channel that shows the newest certificate: ask for each call."""
        newest = self._identity.newest() if self._identity is not None else None
        if newest is not self._shown:
            self._shown = newest
            self._channels.append(open_channel(self._address, newest, Role.ORCHESTRATOR))
        return control_pb2_grpc.ControlStub(self._channels[-1])

    def renew_registration(self) -> None:
        """Sends the registration once more now: it changed, or the orchestrator may not have it any more."""
        self._renewal_asked.set()

    async def stay_registered(
        self, registration: pb.Registration, heartbeat: Callable[[], pb.HeartbeatRequest]
    ) -> None:
        """Registers, sends heartbeats, starts over where the orchestrator does not know us. Ends by cancellation or `leave`."""
        failures = 0
        while not self._leaving:
            try:
                period_s = await self._register(registration)
                failures = 0
                await self._send_heartbeats(period_s, heartbeat)
            except grpc.aio.AioRpcError as error:
                failures += 1
                await asyncio.sleep(retry_s(failures, self.note(error)))

    async def leave(self, node: str) -> None:
        """Tells the orchestrator that this node stops: devices get tables without it, and its name is free."""
        self._leaving = True
        if not self.reachable:
            return
        with contextlib.suppress(grpc.aio.AioRpcError):  # it will take note of the silence
            await self.stub.Leave(pb.LeaveRequest(node=node, instance=self.instance), timeout=LEAVE_TIMEOUT_S)

    async def report(self, report: pb.LinkReport) -> None:
        """Raises PeerUnavailable when it was not taken."""
        try:
            await self.stub.Report(report, timeout=CONTROL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise PeerUnavailable(f"The {self.peer} did not take a report.") from error

    def note(self, rpc_error: grpc.aio.AioRpcError) -> SplitvlmError:
        """Returns what a failed call means; logged once between two registrations, for calls are tried again and again."""
        error = own_certificate_expired(self._identity, self.peer) or from_rpc(rpc_error, self.peer)
        away = isinstance(error, PeerUnavailable | DeadlineExceeded)
        if str(error) not in self._noted and len(self._noted) < MAX_NOTED:
            self._noted.add(str(error))
            _log.log(logging.WARNING if self.reachable or not away else logging.INFO, "%s", error)
        self.reachable = not away
        return error

    async def close(self) -> None:
        """Closes all channels to the orchestrator; running calls end with an error."""
        for channel in self._channels:
            await channel.close()

    async def _register(self, registration: pb.Registration) -> float:
        """Returns the period of heartbeats that the orchestrator wants, in seconds."""
        self._renewal_asked.clear()
        registration.instance = self.instance
        reply: pb.RegisterReply = await self.stub.Register(registration, timeout=CONTROL_TIMEOUT_S)
        self.reachable = True
        self._noted.clear()
        _log.info("registered with the %s", self.peer)
        return heartbeat_period_s(reply)

    async def _send_heartbeats(self, period_s: float, heartbeat: Callable[[], pb.HeartbeatRequest]) -> None:
        """Sends heartbeats until the registration must be renewed."""
        wait_s = period_s * random.random()  # nodes that registered together do not send heartbeats together
        while not await self._renewal_asked_within(wait_s):
            message = heartbeat()
            message.instance = self.instance
            try:
                reply: pb.HeartbeatReply = await self.stub.Heartbeat(message, timeout=CONTROL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if isinstance(from_rpc(error, self.peer), UsageError):
                    return  # it does not know this node any more
                raise
            self.reachable = True
            wait_s = heartbeat_period_s(reply)

    async def _renewal_asked_within(self, timeout_s: float) -> bool:
        """Returns whether renew_registration was called within that time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._renewal_asked.wait()
        except TimeoutError:
            return False
        return True
