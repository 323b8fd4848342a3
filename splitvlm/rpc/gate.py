"""Who may not call at all: holders of revoked certificates. gRPC's TLS knows no revocation, so every call is looked at."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from cryptography import x509

from splitvlm.crypto.revocation import Revoked
from splitvlm.errors import KeysError
from splitvlm.rpc.status import abort

Handler = Any  # grpc.RpcMethodHandler: its stubs name no attributes


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Ends calls whose certificate is on the list, with KeysError."""

    def __init__(self, revoked: Revoked) -> None:
        self._revoked = revoked

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        handler = await continuation(details)
        if handler is None:
            return handler
        serve = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._checked_stream(handler.stream_stream), **serve)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(self._checked_stream(handler.unary_stream), **serve)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(self._checked(handler.stream_unary), **serve)
        return grpc.unary_unary_rpc_method_handler(self._checked(handler.unary_unary), **serve)

    def _checked(self, method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def checked(request: Any, context: Any) -> Any:
            await self._check(context)
            return await method(request, context)

        return checked

    def _checked_stream(self, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        if not inspect.isasyncgenfunction(method):  # it writes by itself
            return self._checked(method)

        async def checked(request: Any, context: Any) -> Any:
            await self._check(context)
            async for message in method(request, context):
                yield message

        return checked

    async def _check(self, context: Any) -> None:
        for pem in (context.auth_context().get("x509_pem_cert") or ())[:1]:
            if x509.load_pem_x509_certificate(pem) in self._revoked:
                await abort(
                    context, KeysError("This node's certificate has been revoked.", advice="Ask for another one.")
                )
