"""The OpenAPI description of the HTTP API: requests by the models that read them (fields.py), replies by their own schemas."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

from edge_node.local.http.fields import ChatRequest

_REF = "#/components/schemas/{model}"
_TEXT, _NUMBER, _OBJECT = {"type": "string"}, {"type": "integer"}, {"type": "object"}


@cache
def description() -> dict[str, Any]:
    """Returns the description, as `GET /openapi.json` serves it."""
    request = ChatRequest.model_json_schema(ref_template=_REF)
    schemas = request.pop("$defs", {}) | {
        "ChatRequest": request,
        "ChatReply": _record(id=_TEXT, object=_TEXT, created=_NUMBER, model=_TEXT, choices=_list(), usage=_OBJECT),
        "Model": _record(id=_TEXT, object=_TEXT, created=_NUMBER, owned_by=_TEXT, max_model_len=_NUMBER),
        "Error": _record(error=_record(message=_TEXT, type=_TEXT)),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "splitvlm edge node: OpenAI's chat API", "version": metadata.version("splitvlm")},
        "paths": _paths(),
        "components": {"schemas": schemas},
    }


def _paths() -> dict[str, Any]:
    model = {"name": "model", "in": "path", "required": True, "schema": _TEXT}
    events = {"text/event-stream": {"schema": _TEXT}}
    return {
        "/v1/models": {"get": _operation("The model that is served", _record(object=_TEXT, data=_list(_ref("Model"))))},
        "/v1/models/{model}": {"get": _operation("One model", _ref("Model")) | {"parameters": [model]}},
        "/v1/chat/completions": {
            "post": {
                "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("ChatRequest")}}},
                **_operation("The answer to a conversation", _ref("ChatReply"), events),
            }
        },
        "/health": {"get": _operation("Whether the node serves", _record(status=_TEXT))},
    }


def _operation(summary: str, schema: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    good = {"description": summary, "content": {"application/json": {"schema": schema}} | (more or {})}
    bad = {"description": "What was wrong", "content": {"application/json": {"schema": _ref("Error")}}}
    return {"summary": summary, "responses": {"200": good, "4XX": bad, "5XX": bad}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF.format(model=name)}


def _list(items: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "array", "items": items or _OBJECT}


def _record(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}
