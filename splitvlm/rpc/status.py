"""Errors to gRPC statuses and back: the one translator at this boundary.

An error crosses as its status, its public sentence, and trailers: `splitvlm-error` (its code) and `splitvlm-advice`;
that of a node without room carries `splitvlm-retry-after-ms` too.
Whatever is not a SplitvlmError becomes INTERNAL with a sentence that tells the peer nothing; the log has the detail.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, unquote

import grpc

from splitvlm.errors import (
    CapacityError,
    DeadlineExceeded,
    PeerUnavailable,
    PermissionRefused,
    ProtocolError,
    SplitvlmError,
    all_errors,
)
from splitvlm.rpc.limits import MOST_RETRY_AFTER_S, MOST_TEXT_LENGTH

_log = logging.getLogger("splitvlm.rpc")
_BY_CODE = {kind.code: kind for kind in all_errors()}
_CODE_KEY, _ADVICE_KEY, _RETRY_KEY = "splitvlm-error", "splitvlm-advice", "splitvlm-retry-after-ms"

_TLS_CAUSES = (  # what gRPC's TLS says, the sentence, the advice
    (
        "certificate has expired",
        "The certificate of the {peer} has expired.",
        "Make another with `splitvlm keys rotate NODE` and copy its files into that node's folder: they count at once.",
    ),
    (
        "certificate is not yet valid",
        "The certificate of the {peer} is not valid yet.",
        "Check the clocks of both machines.",
    ),
    (
        "hostname verification",
        "The {peer} shows a certificate of another role, or one that is not for this address.",
        "Check the address, and the node's role and names (`splitvlm keys show`). A certificate that an earlier version issued "
        "does not tell its role in TLS: `splitvlm keys rotate NODE` makes one that does.",
    ),
    (
        "certificate_verify_failed",
        "The certificate of the {peer} was not issued by this node's authority.",
        "Both nodes need keys of one authority (`splitvlm keys show`).",
    ),
    (
        "handshake failed",
        "The {peer} and this node do not accept each other's certificates.",
        "Both must come from the same authority and be in date (`splitvlm keys show`).",
    ),
)
_RETRY = re.compile(r"[0-9]{1,9}")

T = TypeVar("T")


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> NoReturn:
    """Ends the call with the error's status and public text."""
    if isinstance(error, SplitvlmError):
        status = grpc.StatusCode[error.grpc_status]
        trailers = [(_CODE_KEY, error.code), (_ADVICE_KEY, quote(error.advice))]
        if retry := retry_after_ms(error):
            trailers.append((_RETRY_KEY, str(retry)))
        await context.abort(status, error.sentence, tuple(trailers))
    _log.error("call failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "The node failed at this call; its log says why.")
    raise AssertionError("abort raises")


def unary(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Returns a servicer's method whose errors reach the peer as statuses."""

    @functools.wraps(method)
    async def translated(self: object, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> T:
        try:
            return await method(self, request, context)
        except grpc.aio.AbortError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and was_cancelled():
                raise
            await abort(context, error)

    return translated


def streaming(method: Callable[..., AsyncIterator[T]]) -> Callable[..., AsyncIterator[T]]:
    """Wraps a method that yields: what it raises reaches the caller as `unary` has it."""

    @functools.wraps(method)
    async def translated(
        self: object, request: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[T]:
        try:
            async for message in method(self, request, context):
                yield message
        except grpc.aio.AbortError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and was_cancelled():
                raise
            await abort(context, error)

    return translated


def was_cancelled() -> bool:
    """Tells whether a CancelledError in the running task is that task's own.

    gRPC raises it also to whoever uses a call that was cancelled or whose channel was closed here. Taken for a
    cancellation of the task it would end an RPC without a status, and its caller would wait for ever.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def failure(code: str, sentence: str, advice: str, retry_after_ms: int = 0) -> SplitvlmError:
    """Returns the error that a code of the wire names; unknown codes are plain SplitvlmErrors.

    What a peer says is bounded here: texts are printable and short, and no node keeps others away for longer than a minute.
    """
    kind = _BY_CODE.get(code, SplitvlmError)
    error = kind(_printable(sentence), advice=_printable(advice))
    if isinstance(error, CapacityError):
        error.retry_after_s = min(retry_after_ms / 1e3, MOST_RETRY_AFTER_S)
    error.from_peer = True
    return error


def _printable(text: str) -> str:
    """Returns a peer's text in one line, without what could steer a terminal."""
    printable = "".join(character if character.isprintable() else " " for character in text[:MOST_TEXT_LENGTH])
    return " ".join(printable.split())


def retry_after_ms(error: SplitvlmError) -> int:
    """Returns the error's retry time as the wire has it; 0 where the error says nothing of it."""
    return math.ceil(1e3 * error.retry_after_s) if isinstance(error, CapacityError) else 0


def from_rpc(error: grpc.aio.AioRpcError, peer: str) -> SplitvlmError:
    """Returns what a failed call means to its caller. `peer` names the other side, e.g. `cloud node at 127.0.0.1:7442`."""
    trailers = {key: value for key, value in (error.trailing_metadata() or ())}
    code = trailers.get(_CODE_KEY)
    if isinstance(code, str):
        advice = trailers.get(_ADVICE_KEY, "")
        retry = str(trailers.get(_RETRY_KEY, "0"))
        return failure(code, error.details() or "", unquote(str(advice)), int(retry) if _RETRY.fullmatch(retry) else 0)
    return _of_status(error.code(), error.details() or "", peer)


def tls_failure(detail: str, peer: str) -> PeerUnavailable | None:
    """Returns why TLS with a peer failed, by what gRPC says of a connection that did not come up; None where it says nothing of
    TLS.
    """
    for cause, sentence, advice in _TLS_CAUSES:
        if cause in detail.lower():
            return PeerUnavailable(sentence.format(peer=peer), advice=advice)
    return None


def _of_status(status: grpc.StatusCode, detail: str, peer: str) -> SplitvlmError:
    if status is grpc.StatusCode.UNAVAILABLE and (failed := tls_failure(detail, peer)) is not None:
        return failed
    detail = _printable(detail)[:200]
    match status:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return PeerUnavailable(
                f"The {peer} does not answer.",
                advice="Check that it runs, that the address is right, and the keys of both.",
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"The {peer} did not answer in time.", advice="Look at its load and at the link.")
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return PermissionRefused(
                f"The {peer} refuses this node: {detail}.", advice="Check the role in its certificate."
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            full = CapacityError(f"The {peer} has no room: {detail}.", advice="Try again in a few seconds.")
            full.from_peer = True
            return full
        case _:
            return ProtocolError(f"The {peer} failed: {detail or status.name}.", advice="Its log says why.")
