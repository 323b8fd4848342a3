"""A node's client of the control plane: registers, beats, registers again when the orchestrator forgot it, leaves."""

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
from splitvlm.rpc.control_messages import beat_period_s
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
        self._again = asyncio.Event()
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

    def register_again(self) -> None:
        """Has the registration said again now: it changed, or the orchestrator may have forgotten it."""
        self._again.set()

    async def stay_registered(self, registration: pb.Registration, beat: Callable[[], pb.HeartbeatRequest]) -> None:
        """Register, beat, start over whenever the orchestrator does not know us. Ends by cancellation or after `leave`."""
        failures = 0
        while not self._leaving:
            try:
                period_s = await self._register(registration)
                failures = 0
                await self._beat(period_s, beat)
            except grpc.aio.AioRpcError as error:
                failures += 1
                await asyncio.sleep(retry_s(failures, self.note(error)))

    async def leave(self, node: str) -> None:
        """Tell the orchestrator that this node stops: devices get tables without it, and its name is free."""
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
        """Returns the period of beats that the orchestrator wants."""
        self._again.clear()
        registration.instance = self.instance
        reply: pb.RegisterReply = await self.stub.Register(registration, timeout=CONTROL_TIMEOUT_S)
        self.reachable = True
        self._noted.clear()
        _log.info("registered with the %s", self.peer)
        return beat_period_s(reply)

    async def _beat(self, period_s: float, beat: Callable[[], pb.HeartbeatRequest]) -> None:
        """Beats until the registration must be said again."""
        wait_s = period_s * random.random()  # nodes that registered together do not beat together
        while not await self._told_again(wait_s):
            message = beat()
            message.instance = self.instance
            try:
                reply: pb.HeartbeatReply = await self.stub.Heartbeat(message, timeout=CONTROL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if isinstance(from_rpc(error, self.peer), UsageError):
                    return  # it does not know this node any more
                raise
            self.reachable = True
            wait_s = beat_period_s(reply)

    async def _told_again(self, timeout_s: float) -> bool:
        """Tells whether register_again was called within that time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._again.wait()
        except TimeoutError:
            return False
        return True
