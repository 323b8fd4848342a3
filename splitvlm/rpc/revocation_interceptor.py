"""Refuses callers whose certificates are revoked or have expired.

TLS looks at a certificate once, when a connection opens, and gRPC's knows no revocation. So every call is looked at when it
begins, and the streams among them every second while they run.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
from cryptography import x509

from splitvlm.crypto.identity import Identity
from splitvlm.crypto.lifetime import utc_now
from splitvlm.crypto.trust import require_current
from splitvlm.errors import KeysError
from splitvlm.rpc.status import abort

Handler = Any  # grpc.RpcMethodHandler: its stubs name no attributes
Method = Callable[[Any, Any], Awaitable[Any]]
NO_GRACE: Final = dt.timedelta(0)
ANSWER_GRACE: Final = dt.timedelta(minutes=1)  # what runs when a certificate expires may end within that


class RevocationInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Ends calls whose certificate counts no more, with KeysError.

    A stream is ended at once where its certificate is revoked. Where it has expired, what runs may end first.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._open: dict[asyncio.Timeout, x509.Certificate] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """Wraps each handler so that a caller whose certificate counts no more is refused, also while its stream runs."""
        handler = await continuation(details)
        if handler is None:
            return handler
        serve = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(_writer(handler.stream_stream)), **serve)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._stream(_writer(handler.unary_stream)), **serve)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._stream(handler.stream_unary), **serve)
        return grpc.unary_unary_rpc_method_handler(self._call(handler.unary_unary), **serve)

    def look(self) -> None:
        """Ends the streams whose certificates count no more."""
        for bound, certificate in list(self._open.items()):
            if self._refusal(certificate, ANSWER_GRACE) is not None:
                del self._open[bound]
                bound.reschedule(asyncio.get_running_loop().time())

    def _call(self, method: Method) -> Method:
        async def checked(request: Any, context: Any) -> Any:
            await self._admit(context)
            return await method(request, context)

        return checked

    def _stream(self, method: Method) -> Method:
        async def checked(request: Any, context: Any) -> Any:
            certificate = await self._admit(context)
            try:
                async with self._watched(certificate):
                    return await method(request, context)
            except TimeoutError as error:
                refusal = self._refusal(certificate)
                await abort(context, error if refusal is None else refusal)

        return checked

    @contextlib.asynccontextmanager
    async def _watched(self, certificate: x509.Certificate | None) -> AsyncIterator[None]:
        """Raises TimeoutError when `look` finds that the certificate counts no more."""
        async with asyncio.timeout(None) as bound:
            if certificate is not None:
                self._open[bound] = certificate
            try:
                yield
            finally:
                self._open.pop(bound, None)

    async def _admit(self, context: Any) -> x509.Certificate | None:
        """Returns the caller's certificate, which counts now. Ends the call of any other."""
        pems = context.auth_context().get("x509_pem_cert") or ()
        certificate = x509.load_pem_x509_certificate(pems[0]) if pems else None
        if (refusal := self._refusal(certificate)) is not None:
            await abort(context, refusal)
        return certificate

    def _refusal(self, certificate: x509.Certificate | None, grace: dt.timedelta = NO_GRACE) -> KeysError | None:
        if certificate is None:
            return None
        try:
            require_current(certificate, self._identity.newest().revoked, utc_now() - grace)
        except KeysError as error:
            return error
        return None


def _writer(method: Callable[[Any, Any], Any]) -> Method:
    """Returns a streaming method that writes by itself, so that all of it runs in one task."""
    if not inspect.isasyncgenfunction(method):
        return method

    async def written(request: Any, context: Any) -> None:
        async with contextlib.aclosing(method(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return written
