"""Reads a request's body: JSON, the fields that are refused by name, and the fields that are read with their types."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from edge_node.local.http.errors import RequestRefused
from edge_node.local.http.fields import ChatRequest
from edge_node.local.http.unsupported import check_supported

MOST_SHOWN = 80  # characters of a wrong value


def parsed(body: bytes) -> ChatRequest:
    """Returns the request that a body holds. Raises RequestRefused, which names the field that is wrong."""
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestRefused(f"The body is not JSON: {error}.", advice="Send a JSON object.") from error
    if not isinstance(content, dict):
        raise RequestRefused(f"The body is a {_kind(content)}.", advice="Send a JSON object.")
    check_supported(content)
    try:
        return ChatRequest.model_validate(content)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from error


def _refusal(detail: ErrorDetails) -> RequestRefused:
    field = field_of(detail["loc"])
    if detail["type"] == "missing":
        return RequestRefused(f"{field} is missing.", param=field, code="missing_required_parameter")
    value = detail["input"]
    shown = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {_kind(value)}"
    if len(shown) > MOST_SHOWN:
        shown = f"{shown[:MOST_SHOWN]}..."
    wanted = detail["msg"].removeprefix("Input ").removeprefix("Value ")
    return RequestRefused(f"{field} is {shown}, but {wanted[0].lower()}{wanted[1:]}.", param=field)


def field_of(location: tuple[int | str, ...]) -> str:
    """Returns a field's place as `messages[0].content[1].image_url.url`, without the names of a union's members."""
    text = ""
    for index, key in enumerate(location):
        before = location[max(0, index - 2) : index]
        is_member = before[-1:] in (("content",), ("stop",)) and isinstance(key, str)
        is_kind = len(before) == 2 and before[0] == "parts" and isinstance(key, str)
        if not is_member and not is_kind:
            text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _kind(value: object) -> str:
    return {dict: "JSON object", list: "list", str: "text", bool: "truth value"}.get(type(value), "number")
