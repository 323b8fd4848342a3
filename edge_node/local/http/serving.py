"""Puts the HTTP server of one edge node together."""

from __future__ import annotations

import time

from edge_node.answering.answerer import Answerer
from edge_node.local.http.access import access_of
from edge_node.local.http.app import make_app
from edge_node.local.http.chat import ChatEndpoint
from edge_node.local.http.images import ImageFiles
from edge_node.local.http.question import Offer
from edge_node.local.http.server import HttpServer
from edge_node.runtime import Runtime
from edge_node.settings import EdgeSettings


def http_server(answerer: Answerer, runtime: Runtime) -> HttpServer | None:
    """Returns the server, not listening yet; None where the settings want none. Raises ConfigError, KeysError."""
    settings = runtime.settings
    access = access_of(settings)
    if access is None:
        return None
    http = settings.http
    chat = ChatEndpoint(answerer, lambda: offer_of(runtime), ImageFiles(http), http.max_body_bytes)
    app = make_app(chat, lambda: offer_of(runtime), access.token, int(time.time()))
    return HttpServer(app, access, settings.drain_s, chat.close)


def offer_of(runtime: Runtime) -> Offer:
    """Returns what the node offers by its settings as they are now."""
    settings, max_context = runtime.settings, runtime.engine.part.spec.max_context
    most_new_tokens = min(settings.limits.max_new_tokens, max_context - 1)
    return Offer(served_name(settings), max_context, most_new_tokens, settings.http.temperature)


def served_name(settings: EdgeSettings) -> str:
    """Returns the model's name in the API: of a folder, the last part of its path alone."""
    name = settings.model.name
    return settings.http.model_name or (name.rstrip("/").rpartition("/")[2] if name.startswith("/") else name)
