"""Lets requests in: those with the node's token, or where it has none, those that were meant for this machine.

Without a token the port is on loopback. A web page in a browser of this machine could still reach it: by a name that leads to
127.0.0.1, or by a form. So the host must be loopback's, and a body must be declared as JSON (chat.py), which no form can do
and no page may send elsewhere.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_node.local.http.errors import RequestRefused, error_reply
from edge_node.local.http.sending import Client
from splitvlm.rpc.addresses import is_loopback

SCHEME = "bearer "


class Door:
    """Is the outermost application of the HTTP server."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        try:
            if self._token is None:
                _check_host(Headers(scope=scope))
            else:
                _check_token(Headers(scope=scope), self._token)
        except RequestRefused as refusal:
            await Client(send).error(error_reply(refusal))
            return
        await self._app(scope, receive, send)


def _check_token(headers: Headers, token: str) -> None:
    credentials = headers.get("authorization", "")
    is_bearer = credentials[: len(SCHEME)].lower() == SCHEME
    if not is_bearer or not secrets.compare_digest(credentials[len(SCHEME) :].strip().encode(), token.encode()):
        raise RequestRefused(
            "The request has no valid token.",
            advice="Send the header 'Authorization: Bearer TOKEN' (of the openai client: api_key).",
            status=401,
            code="invalid_api_key",
        )


def _check_host(headers: Headers) -> None:
    host = headers.get("host", "")
    name = host.partition("]")[0].strip("[]") if host.startswith("[") else host.partition(":")[0]
    if not is_loopback(name):
        raise RequestRefused(
            f"The host '{host[:100]}' is not this machine's loopback.",
            advice="Use http://127.0.0.1, or set http.token_file and TLS and listen elsewhere.",
            status=403,
            code="host_not_allowed",
        )
