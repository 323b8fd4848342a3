"""Listens for HTTP beside gRPC, in the same event loop: loopback alone, or TLS and a token."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_node.local.http.access import Access
from splitvlm.errors import KeysError, PortError
from splitvlm.host_port import host_and_port
from splitvlm.rpc.addresses import joined

MOST_CONNECTIONS = 256
IDLE_S = 60  # after which a connection without a request is closed; OpenAI's clients keep theirs for 5 s
UNREAD_MS = 60_000  # after which the kernel gives up a connection whose peer takes nothing
MAX_HEAD_BYTES = 64 * 1024
RENEWAL_S = 60.0  # from one look at the certificate's file to the next


class _Server(uvicorn.Server):
    """Is uvicorn's server without its own signals: the node has them (splitvlm.node.lifecycle)."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """Is uvicorn's HTTP/1.1, which closes a connection that never sends anything, too."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)


class HttpServer:
    """Serves one application on one port."""

    def __init__(self, app: ASGIApp, access: Access, drain_s: float, close: Callable[[], None]) -> None:
        """`close` ends what the application holds, once nothing runs any more. Raises KeysError."""
        self._access = access
        self._close = close
        self._tls = None if access.certificate is None else _tls(access.certificate, access.key)
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=int(drain_s),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            ssl_context_factory=(lambda _config, _default: self._tls) if self._tls else None,  # type: ignore[arg-type, return-value]
        )
        self._server = _Server(config)
        self._tasks: list[asyncio.Task[None]] = []

    async def listen(self) -> str:
        """Starts. Returns the base URL with the port that was really taken. Raises PortError."""
        host, port = host_and_port(self._access.listen)
        listening = _bound(host, port)
        self._tasks.append(asyncio.create_task(self._server.serve(sockets=[listening])))
        if self._tls is not None:
            self._tasks.append(asyncio.create_task(self._follow_certificate(self._tls)))
        address = joined(host, listening.getsockname()[1])
        while not self._server.started:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0)
        return f"{'https' if self._tls else 'http'}://{address}/v1"

    async def drain(self) -> None:
        """Takes no new request, lets running ones end within the time to drain, then cancels them."""
        self._server.should_exit = True
        serving, *others = self._tasks
        await serving
        await asyncio.gather(*self._server.server_state.tasks, return_exceptions=True)  # those that were cancelled
        for task in others:
            task.cancel()
        self._close()

    async def _follow_certificate(self, context: ssl.SSLContext) -> None:
        """Takes a renewed certificate for the connections that follow; one that is broken changes nothing."""
        while True:
            await asyncio.sleep(RENEWAL_S)
            with contextlib.suppress(OSError):
                context.load_cert_chain(self._access.certificate or "", self._access.key)


def _tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise KeysError(
            f"Cannot use the certificate {certificate} with the key {key}: {error.strerror or error}.",
            advice="Name files in PEM in http.certificate and http.key.",
        ) from error
    return context


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise PortError(
            f"Cannot listen on {joined(host, port)} for HTTP: {error.strerror}.",
            advice="Stop the process that has it, or set `http.listen` to another port (0 takes a free one).",
        ) from error
    return listening
