"""The cloud node's side of the control plane: register with its profile, send heartbeats with its load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from cloud_node.frontend.servicer import DataServicer
from cloud_node.pools.protocol import Pool
from cloud_node.settings import CloudSettings
from splitvlm.errors import ConfigError, UsageError
from splitvlm.host_port import host_and_port
from splitvlm.node.lifecycle import background
from splitvlm.rpc.addresses import is_loopback, is_wildcard, require_dialable
from splitvlm.rpc.control_client import ControlClient
from splitvlm.wire.v1 import control_pb2 as pb

Renewal = Callable[[Callable[[pb.Registration], None]], Coroutine[Any, Any, None]]
"""Follows what the workers serve and cost, and calls its argument with what is new of it."""

_log = logging.getLogger("splitvlm.cloud.control")


def check_advertised(settings: CloudSettings) -> None:
    """Raises ConfigError where devices could not dial what the orchestrator would tell them."""
    if settings.orchestrator is None:
        return
    if settings.advertise is not None:
        try:
            require_dialable(settings.advertise)
        except UsageError as error:
            raise ConfigError(f"advertise: {error.sentence}", advice=error.advice) from error
    elif is_wildcard(host_and_port(settings.listen)[0]):
        raise ConfigError(
            f"listen is {settings.listen}, every address of this machine, and advertise is missing: devices could not dial it.",
            advice="Set `advertise` to the host:port by which devices reach this node.",
        )
    told = settings.advertise or settings.listen
    if _is_local(told) and not _is_local(settings.orchestrator):
        _log.warning("devices on other machines cannot dial %s: set `advertise`", told)


def _is_local(address: str) -> bool:
    return is_loopback(host_and_port(address)[0])


class Membership:
    """Keeps this node known at its orchestrator, with what it said of itself."""

    def __init__(
        self,
        client: ControlClient,
        entry: pb.Registration,
        load: Callable[[], pb.HeartbeatRequest],
        renewal: Renewal,
    ) -> None:
        """Takes in `load` what tells what each heartbeat says."""
        self._client = client
        self._entry = entry
        self._load = load
        self._renewal = renewal

    async def stay(self) -> None:
        """Stays registered, and registers anew with what workers serve or cost anew. Ends by cancellation or after `leave`."""
        async with background(self._renewal(self._tell)):
            await self._client.stay_registered(self._entry, self._load)

    async def leave(self) -> None:
        """Tells the orchestrator that this node stops."""
        await self._client.leave(self._entry.node)

    async def close(self) -> None:
        """Closes the connection."""
        await self._client.close()

    def _tell(self, news: pb.Registration) -> None:
        if news.clouds:
            self._entry.ClearField("clouds")
        if news.accuracy:
            self._entry.ClearField("accuracy")
        self._entry.MergeFrom(news)
        self._client.renew_registration()


def registration(settings: CloudSettings, address: str, offer: pb.Registration) -> pb.Registration:
    """Returns what this node says of itself: what its workers serve and cost, its name, and where it listens."""
    entry = pb.Registration(node=settings.node, role="cloud", listen=address, address=settings.advertise or address)
    entry.MergeFrom(offer)
    return entry


def heartbeat(settings: CloudSettings, servicer: DataServicer, pool: Pool) -> pb.HeartbeatRequest:
    """Returns what the orchestrator is told of this node's load."""
    return pb.HeartbeatRequest(
        node=settings.node,
        active_sessions=servicer.active.total(),
        queue_us=int(1e6 * pool.load.mean_queue_s),
    )
