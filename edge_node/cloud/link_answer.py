"""One request to one cloud node: a session for its duration, and what it tells of the node and the link."""

from __future__ import annotations

import asyncio

from edge_node.cloud.cloud_request import CloudRequest
from edge_node.cloud.exchange import Exchange
from edge_node.cloud.known_prefixes import KnownPrefix, KnownPrefixes
from edge_node.cloud.link_meter import LinkMeter
from edge_node.cloud.node_health import NodeHealth
from edge_node.cloud.session import CloudSession
from edge_node.cloud.session_answer import SessionAnswer
from edge_node.cloud.session_pool import SessionPool
from edge_node.token_source import TokenSource
from splitvlm.errors import PrefixEvicted, SplitvlmError

STALLED = 2.0  # an upload that takes so many times its predicted time tells of the link before it ends


class LinkAnswer(TokenSource):
    """Gives the tokens of one request. Asking raises a SplitvlmError."""

    def __init__(
        self,
        sessions: SessionPool,
        meter: LinkMeter,
        health: NodeHealth,
        prefixes: KnownPrefixes,
        request: CloudRequest,
        exchange: Exchange,
    ) -> None:
        super().__init__()
        self._sessions = sessions
        self._meter = meter
        self._health = health
        self._prefixes = prefixes
        self._request = request
        self._exchange = exchange
        self._token_ids = list(request.answer.resume_token_ids)  # of the answer so far
        self._sent_before = exchange.bytes_sent  # by earlier attempts
        self._session: CloudSession | None = None
        self._tokens: SessionAnswer | None = None
        self._watching: asyncio.Task[None] | None = None

    async def _next(self) -> int | None:
        try:
            if self._tokens is None:
                self._tokens = await self._begin()
            token_id = await anext(self._tokens, None)
        except PrefixEvicted:
            if (cached := self._request.payload.cached) is not None:
                self._prefixes.forget(cached.name)
            raise
        except SplitvlmError as error:
            self._health.on_request_error(error)
            raise
        if token_id is None:
            self._health.on_answer()
            if self._exchange.cloud.prefix_stored:
                self._prefixes.add(self._stored())
        else:
            self._token_ids.append(token_id)
        return token_id

    def _stored(self) -> KnownPrefix:
        """Returns the prefix that the node keeps now."""
        payload = self._request.payload
        token_ids = (*payload.prompt_ids, *self._token_ids) if payload.prompt_ids else ()
        num_image_tokens = self._exchange.cloud.prompt.image_tokens
        return KnownPrefix(self._request.prefix_name, payload.plan, payload.num_images, num_image_tokens, token_ids)

    async def _begin(self) -> SessionAnswer:
        self._watching = asyncio.create_task(self._watch())
        self._session = await self._sessions.take(self._request.silence_timeout_s)
        upload_s = self._meter.estimate().transfer_s(self._request.payload.segments.largest_bytes)
        return SessionAnswer(self._session, self._request, self._exchange, upload_s)

    async def _close(self) -> None:
        if self._watching is None:
            return  # nothing was begun
        self._watching.cancel()
        self._watching = None  # its error's traceback refers to this object
        try:
            if self._tokens is not None:
                await self._tokens.aclose()
        finally:
            self._meter.on_request_end(self._exchange.upload, self._exchange.bytes_sent - self._sent_before)
            if self._session is not None:
                await self._sessions.put_back(self._session)

    async def _watch(self) -> None:
        """Tells the meter of an upload that hangs while it hangs, each time after twice as long."""
        upload = self._exchange.upload
        wait_s = STALLED * self._meter.estimate().transfer_s(self._request.payload.segments.largest_bytes)
        while upload.receipt is None:
            await asyncio.sleep(wait_s)
            if upload.began_s is not None and upload.receipt is None:
                self._meter.on_stall(upload)
                wait_s *= 2
