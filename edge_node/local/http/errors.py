"""Turns errors into the form of the OpenAI API: a status code, and one sentence in an object named `error`."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

from splitvlm.errors import CapacityError, SplitvlmError, UsageError

_log = logging.getLogger("splitvlm.edge.http")
_STATUS_OF = {
    "UNAUTHENTICATED": 502,  # between the nodes: an application's own token is refused by the door
    "FAILED_PRECONDITION": 502,
    "DATA_LOSS": 502,
    "INVALID_ARGUMENT": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 503,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "CANCELLED": 503,
    "DEADLINE_EXCEEDED": 504,
}
_TYPE_OF = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_OTHER_4XX = "invalid_request_error"
_OTHER_5XX = "server_error"


class RequestRefused(UsageError):
    """Says that a request cannot be served as it was sent, with the status code that HTTP has for it."""

    def __init__(
        self, sentence: str, *, advice: str = "", status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        """`param` names the field that is wrong, and `code` is the API's own short name of the error, if it has one."""
        super().__init__(sentence, advice=advice)
        self.status = status
        self.param = param
        self.openai_code = code


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """Holds an error as it is sent: in a body of its own, or in the middle of a stream."""

    status: int
    body: dict[str, Any]
    retry_after_s: int | None = None


def error_reply(error: Exception) -> ErrorReply:
    """Returns the reply to an error. What is none of ours is logged, and told in one general sentence."""
    match error:
        case RequestRefused():
            return _reply(error.status, str(error), error.openai_code or error.code, error.param)
        case CapacityError(retry_after_s=seconds):
            return _reply(429, str(error), error.code, None, math.ceil(seconds) or None)
        case SplitvlmError():
            return _reply(_STATUS_OF.get(error.grpc_status, 500), str(error), error.code, None)
    _log.error("a request failed", exc_info=error)
    return _reply(500, "This edge node failed inside; its log says more.", SplitvlmError.code, None)


def _reply(status: int, sentence: str, code: str, param: str | None, retry_after_s: int | None = None) -> ErrorReply:
    kind = _TYPE_OF.get(status, _OTHER_4XX if status < 500 else _OTHER_5XX)
    return ErrorReply(
        status, {"error": {"message": sentence, "type": kind, "param": param, "code": code}}, retry_after_s
    )
