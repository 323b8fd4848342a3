"""A node's client of the control plane: registers, beats, registers again when the orchestrator forgot it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc

from splitvlm.crypto.identity import Identity, Role
from splitvlm.errors import PeerUnavailable, SplitvlmError
from splitvlm.rpc.channels import open_channel, own_certificate_expired
from splitvlm.rpc.limits import CONTROL_TIMEOUT_S
from splitvlm.rpc.status import from_rpc
from splitvlm.wire.v1 import control_pb2 as pb
from splitvlm.wire.v1 import control_pb2_grpc

_log = logging.getLogger("splitvlm.control")
RETRY_S = 1.0


class ControlClient:
    """One orchestrator. `reachable` is whether its last call was answered."""

    def __init__(self, address: str, identity: Identity | None) -> None:
        self.peer = f"orchestrator at {address}"
        self._address = address
        self._identity = identity
        self._shown = identity  # as the newest channel shows it
        self._channels = [open_channel(address, identity, Role.ORCHESTRATOR)]  # older ones may carry a stream still
        self.reachable = False
        self._again = asyncio.Event()

    @property
    def stub(self) -> control_pb2_grpc.ControlStub:
        """Over a channel that shows the newest certificate: ask for each call."""
        newest = self._identity.newest() if self._identity is not None else None
        if newest is not self._shown:
            self._shown = newest
            self._channels.append(open_channel(self._address, newest, Role.ORCHESTRATOR))
        return control_pb2_grpc.ControlStub(self._channels[-1])

    def register_again(self) -> None:
        """The registration changed: say it again now."""
        self._again.set()

    async def stay_registered(self, registration: pb.Registration, beat: Callable[[], pb.Beat]) -> None:
        """Register, beat for ever, start over whenever the orchestrator does not know us. Returns only by cancellation."""
        while True:
            try:
                period_s = await self._register(registration)
                while not await self._told_again(period_s):
                    await self.stub.Heartbeat(beat(), timeout=CONTROL_TIMEOUT_S)
                    self.reachable = True
                continue
            except grpc.aio.AioRpcError as error:
                self._note(own_certificate_expired(self._identity, self.peer) or from_rpc(error, self.peer))
            await asyncio.sleep(RETRY_S)

    async def report(self, report: pb.LinkReport) -> None:
        """Raises PeerUnavailable when it was not taken."""
        try:
            await self.stub.Report(report, timeout=CONTROL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise PeerUnavailable(f"The {self.peer} did not take a report.") from error

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def _told_again(self, timeout_s: float) -> bool:
        """Whether register_again was called within that time."""
        try:
            await asyncio.wait_for(self._again.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def _register(self, registration: pb.Registration) -> float:
        self._again.clear()
        reply: pb.Registered = await self.stub.Register(registration, timeout=CONTROL_TIMEOUT_S)
        self.reachable = True
        _log.info("registered with the %s", self.peer)
        return reply.heartbeat_ms / 1e3

    def _note(self, error: SplitvlmError) -> None:
        level = logging.WARNING if self.reachable or error.code != "peer-unavailable" else logging.INFO
        self.reachable = False
        _log.log(level, "%s", error)
