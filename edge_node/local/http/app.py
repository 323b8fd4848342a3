"""The HTTP application: its routes, the list of models, its description, and errors that no route makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from edge_node.local.http.chat import ChatEndpoint
from edge_node.local.http.door import Door
from edge_node.local.http.errors import RequestRefused, error_reply
from edge_node.local.http.openapi import description
from edge_node.local.http.question import Offer

OWNER = "splitvlm"


def make_app(chat: ChatEndpoint, offer: Callable[[], Offer], token: str | None, started_s: int) -> ASGIApp:
    """Returns the application. `started_s` is the node's start in seconds since 1970, the age of its model."""

    def models(_request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(offer(), started_s)]})

    def model(request: Request) -> Response:
        served = offer()
        if request.path_params["model"] != served.model:
            raise HTTPException(404)
        return JSONResponse(_model(served, started_s))

    routes = [
        Route("/v1/models", models),
        Route("/v1/models/{model:path}", model),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/openapi.json", lambda _request: JSONResponse(description())),
        Route("/health", lambda _request: JSONResponse({"status": "ok"})),
    ]
    return Door(Starlette(routes=routes, exception_handlers={HTTPException: _http_error}), token)


def _model(offer: Offer, started_s: int) -> dict[str, Any]:
    return {
        "id": offer.model,
        "object": "model",
        "created": started_s,
        "owned_by": OWNER,
        "max_model_len": offer.max_context,  # as vLLM says it, and Frigate reads it
    }


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path[:100]
    if status == 405:
        refusal = RequestRefused(f"{path} has no method {request.method}.", status=405, code="method_not_allowed")
    else:
        refusal = RequestRefused(
            f"There is no {path} here.",
            advice="There are /v1/models and /v1/chat/completions; /openapi.json describes them.",
            status=status,
            code="not_found",
        )
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse(error_reply(refusal).body, status, headers)
