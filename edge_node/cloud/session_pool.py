"""The channel to one cloud node, and the sessions that are open over it."""

from __future__ import annotations

import asyncio
import contextlib

import grpc

from edge_node.cloud.link_meter import LinkMeter
from edge_node.cloud.session import CloudSession
from splitvlm.crypto.identity import Identity, Role
from splitvlm.errors import SplitvlmError
from splitvlm.rpc.channels import open_channel, own_certificate_expired
from splitvlm.rpc.limits import CONNECT_TIMEOUT_S
from splitvlm.wire.v1 import data_pb2 as pb

MOST_IDLE = 4  # sessions kept open for the next requests


class SessionPool:
    """Opens sessions as requests need them, and keeps some for the next ones."""

    def __init__(
        self,
        address: str,
        compatibility: pb.Compatibility,
        identity: Identity | None,
        cuts: list[str],
        meter: LinkMeter,
    ) -> None:
        self.peer = f"cloud node at {address}"
        self.identity = identity
        self.channel = open_channel(address, identity, Role.CLOUD)
        self.idle: list[CloudSession] = []
        self.num_taken = 0  # by requests that have not ended
        self._address = address
        self._compatibility = compatibility
        self._cuts = cuts
        self._meter = meter
        self._shown = identity  # as the channel shows it
        self._replaced: list[grpc.aio.Channel] = []  # by one with a newer certificate; requests may run over them
        self._opening: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Tells whether the channel is up: its own pings find out where nobody is there any more."""
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    async def take(self, silence_timeout_s: float | None) -> CloudSession:
        """Returns a session for one request, until `put_back`. Raises what CloudSession.open raises."""
        self.num_taken += 1
        try:
            await self.renew()
            while self.idle:
                session = self.idle.pop()
                if session.is_current:
                    return session
                await session.close()
            return await self._open(min(CONNECT_TIMEOUT_S, silence_timeout_s or CONNECT_TIMEOUT_S))
        except BaseException:
            await self._given_back()
            raise

    async def put_back(self, session: CloudSession) -> None:
        """Keeps the session for the next request, or closes it where it is broken or one too many."""
        try:
            if session.broken or len(self.idle) >= MOST_IDLE:
                await session.close()
            else:
                self.idle.append(session)
        finally:
            await self._given_back()

    async def warm_up(self) -> None:
        """Opens a session ahead of the first request. Raises what CloudSession.open raises."""
        self.idle.append(await self._open())

    def open_ahead(self) -> None:
        """Begins to open a session for the next request, which must not pay a handshake for one that was cancelled."""
        if not self.idle and (self._opening is None or self._opening.done()):
            self._opening = asyncio.create_task(self._warm_up_quietly())

    async def renew(self) -> None:
        """Opens another channel where this node's certificate was renewed; other sessions follow from now on."""
        newest = self.identity.newest() if self.identity is not None else None
        if newest is self._shown:
            return
        self._shown = newest
        self._replaced.append(self.channel)
        self.channel = open_channel(self._address, newest, Role.CLOUD)
        old, self.idle = self.idle, []
        for session in old:
            await session.close()

    async def close(self) -> None:
        """Closes the channel and whatever runs over it."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for session in self.idle:
            await session.close()
        await self.channel.close()
        await self._close_replaced()

    async def _open(self, timeout_s: float = CONNECT_TIMEOUT_S) -> CloudSession:
        if (expired := own_certificate_expired(self.identity, self.peer)) is not None:
            raise expired
        session = await CloudSession.open(
            self.channel, self.peer, self._compatibility, self.identity, self._cuts, timeout_s=timeout_s
        )
        self._meter.on_session(session)
        return session

    async def _given_back(self) -> None:
        self.num_taken -= 1
        if not self.num_taken:
            await self._close_replaced()

    async def _close_replaced(self) -> None:
        while self._replaced:
            await self._replaced.pop().close()

    async def _warm_up_quietly(self) -> None:
        with contextlib.suppress(SplitvlmError):
            await self.warm_up()
