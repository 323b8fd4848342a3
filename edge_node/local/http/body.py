"""Reads the body of a request without holding more than a node has room for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from starlette.datastructures import Headers
from starlette.types import Receive

from edge_node.local.http.errors import RequestRefused
from edge_node.local.http.sending import ClientGone
from splitvlm.errors import CapacityError

BODY_TIMEOUT_S = 60.0  # from the head of a request to the end of its body
BODIES = 4  # of the largest size that are held at once; most are a tenth of it
RETRY_S = 1.0


class BodyBudget:
    """Counts the bytes of bodies that are held, from their first byte to the end of their answers."""

    def __init__(self, most_body_bytes: int) -> None:
        self.most_body_bytes = most_body_bytes
        self.held_bytes = 0

    @contextlib.contextmanager
    def held(self, headers: Headers) -> Iterator[None]:
        """Books the size that a request declares, or the largest one. Raises RequestRefused, CapacityError."""
        num_bytes = self._declared(headers)
        if self.held_bytes + num_bytes > BODIES * self.most_body_bytes:
            raise CapacityError(
                "This edge node's memory for requests is full.",
                advice=f"Try again in {RETRY_S:g} s.",
                retry_after_s=RETRY_S,
            )
        self.held_bytes += num_bytes
        try:
            yield
        finally:
            self.held_bytes -= num_bytes

    def _declared(self, headers: Headers) -> int:
        length = headers.get("content-length")
        if length is None:
            return self.most_body_bytes
        if int(length) > self.most_body_bytes:  # digits, says h11
            raise too_large(self.most_body_bytes)
        return int(length)

    async def read(self, receive: Receive) -> bytes:
        """Returns the body. Raises RequestRefused where it is too large or too slow, ClientGone where it does not end."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self.most_body_bytes:
                        raise too_large(self.most_body_bytes)
        except TimeoutError as error:
            raise RequestRefused(f"The body did not come within {BODY_TIMEOUT_S:g} s.", status=408) from error
        return bytes(body)


def too_large(most_body_bytes: int) -> RequestRefused:
    """Returns the refusal of a body that is too large."""
    return RequestRefused(
        f"The body is larger than {most_body_bytes} bytes.",
        advice="Send smaller images, or raise http.max_body_bytes of the edge node.",
        status=413,
    )
