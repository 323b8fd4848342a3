"""Servers: one way to listen, with mutual TLS, health and reflection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import splitvlm
from splitvlm.crypto.identity import Identity
from splitvlm.errors import ConfigError, PortError
from splitvlm.rpc.addresses import joined, parsed, require_loopback
from splitvlm.rpc.limits import MAX_MESSAGE_BYTES, server_options
from splitvlm.rpc.monitor import ExpiryMonitor
from splitvlm.rpc.revocation_interceptor import RevocationInterceptor

LOOK_S = 1.0


class _Shown:
    """Gives the certificate that callers see. gRPC asks at each handshake, from threads of its own."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def configuration(self) -> Any:
        pair = (self._identity.private_key_pem, self._identity.certificate_pem)
        return grpc.ssl_server_certificate_configuration([pair], self._identity.authority_pem)

    def renewed(self) -> Any:
        """Returns another configuration; None while the old one counts."""
        newest = self._identity.newest()
        if newest is self._identity:
            return None
        self._identity = newest
        return self.configuration()


class NodeServer:
    """Serves one node's gRPC port. It is not ready until `set_ready`, and `drain` first says so to health watchers."""

    def __init__(
        self,
        identity: Identity | None,
        services: Sequence[str],
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        most_calls: int | None = None,
    ) -> None:
        """Makes a server of which `most_calls` run at once, each of which may hold a message; None: as many as come."""
        self._gate = RevocationInterceptor(identity) if identity is not None else None
        interceptors = [self._gate] if self._gate is not None else []
        options = server_options(max_message_bytes)
        self.grpc = grpc.aio.server(interceptors=interceptors, options=options, maximum_concurrent_rpcs=most_calls)
        self._identity = identity
        self._watching: asyncio.Task[None] | None = None
        self._services = ("", *services)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.grpc)

    async def listen(self, address: str) -> str:
        """Starts on `host:port`. Returns the address with the port that was really taken.

        Raises PortError, ConfigError, UsageError.
        """
        host, target = parsed(address)
        try:
            port = self._bind(target)
        except RuntimeError as error:
            raise PortError(
                f"Cannot listen on {address}: the port is in use, or the address is not of this machine.",
                advice="Stop the process that has it, or set `listen` to another port (0 takes a free one).",
            ) from error
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.grpc.start()
        self._watching = asyncio.create_task(self._watch())
        return joined(host, port)

    async def set_ready(self) -> None:
        """Reports SERVING by the standard gRPC health service."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, grace_s: float) -> None:
        """Refuses new calls, lets running ones end within `grace_s`, then cancels them."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace_s)
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        """Looks at certificates while it is served: the callers' and this node's own."""
        if self._identity is None or self._gate is None:
            return
        monitor = ExpiryMonitor(self._identity)
        while True:
            monitor.look(time.monotonic())
            self._gate.look()
            await asyncio.sleep(LOOK_S)

    def _bind(self, address: str) -> int:
        if self._identity is None:
            require_loopback(address, "listen")
            return self.grpc.add_insecure_port(address)
        if not splitvlm.TLS_1_2_IS_OFF:
            raise ConfigError(
                "gRPC was imported before splitvlm, so this process would take TLS 1.2 too.",
                advice="Import splitvlm first, or set GRPC_SSL_CIPHER_SUITES as splitvlm/__init__.py does.",
            )
        shown = _Shown(self._identity)
        credentials = grpc.dynamic_ssl_server_credentials(shown.configuration(), shown.renewed, True)
        return self.grpc.add_secure_port(address, credentials)

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in self._services:
            await self._health.set(service, status)
