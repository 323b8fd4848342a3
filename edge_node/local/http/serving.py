"""Puts the HTTP server of one edge node together."""

from __future__ import annotations

import time

from edge_node.answering.answerer import Answerer
from edge_node.answering.report import RequestReport
from edge_node.local.http.access import access_of
from edge_node.local.http.app import make_app
from edge_node.local.http.chat import ChatEndpoint
from edge_node.local.http.images import ImageFiles
from edge_node.local.http.logprobs import TokenTexts
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
    chat = ChatEndpoint(answerer, lambda: offer_of(runtime), texts_of(runtime), ImageFiles(http), http.max_body_bytes)
    app = make_app(chat, lambda: offer_of(runtime), access.token, int(time.time()))
    return HttpServer(app, access, settings.drain_s, chat.close)


def offer_of(runtime: Runtime) -> Offer:
    """Returns what the node offers by its settings as they are now."""
    settings, max_context = runtime.settings, runtime.engine.part.spec.max_context
    most_new_tokens = min(settings.limits.max_new_tokens, max_context - 1)
    return Offer(served_name(settings), max_context, most_new_tokens, settings.http.temperature)


def texts_of(runtime: Runtime) -> TokenTexts:
    """Returns what tells the texts of the model's tokens."""
    part = runtime.engine.part

    def text_of(token_id: int) -> str:
        return str(part.tokenizer.decode([token_id], skip_special_tokens=True))

    def probabilities(report: RequestReport) -> list[tuple[str, float | None]]:
        told = part.grammars.probabilities(report.sampling.constraint, report.token_ids)
        return [(choice.text, choice.probability) for choice in told]

    return TokenTexts(text_of, probabilities)


def served_name(settings: EdgeSettings) -> str:
    """Returns the model's name in the API: of a folder, the last part of its path alone."""
    name = settings.model.name
    return settings.http.model_name or (name.rstrip("/").rpartition("/")[2] if name.startswith("/") else name)
