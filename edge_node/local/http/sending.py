"""Sends a response to one client, and ends the work for it when the client goes away or stops reading."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Any

from starlette.types import Receive, Send

from edge_node.local.http.errors import ErrorReply
from edge_node.local.http.reply import error_chunk

WRITE_TIMEOUT_S = 30.0  # a client that takes nothing for so long has stopped reading: its answer must not hold the node
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


class ClientGone(Exception):
    """Says that nobody waits for the response any more."""


class Client:
    """Sends one response. Each write is one write on the socket (TCP_NODELAY is asyncio's default), so chunks do not clump."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False  # the status is out: what fails now can be told in the stream only

    async def stream(self, chunk: bytes) -> None:
        """Sends a chunk of an event stream, whose head goes before the first one. Raises ClientGone."""
        if not self.started:
            await self._start(200, {"content-type": EVENTS, "cache-control": "no-cache"})
        await self._write({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self) -> None:
        """Ends an event stream. Raises ClientGone."""
        await self._write({"type": "http.response.body", "body": b"", "more_body": False})

    async def json(self, body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Sends a whole response. Raises ClientGone."""
        data = json.dumps(body, ensure_ascii=False).encode()
        await self._start(status, {"content-type": JSON, "content-length": str(len(data)), **(headers or {})})
        await self._write({"type": "http.response.body", "body": data, "more_body": False})

    async def error(self, reply: ErrorReply) -> None:
        """Sends an error: as the response, or within the stream that has begun. Raises ClientGone."""
        if self.started:
            await self.stream(error_chunk(reply.body))
            await self.end()
            return
        headers = {"retry-after": str(reply.retry_after_s)} if reply.retry_after_s else {}
        await self.json(reply.body, reply.status, headers)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._write({"type": "http.response.start", "status": status, "headers": pairs})

    async def _write(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await self._send(message)
        except (TimeoutError, OSError) as error:
            raise ClientGone from error


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Runs the work, and cancels it when the client goes away. Raises what the work raises, ClientGone among it."""
    working, watching = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
    if working.cancelled():
        raise ClientGone
    working.result()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
