"""Lets operations of a gRPC call go on to their end although whoever awaits them is cancelled.

grpc.aio loses the memory of an operation whose awaiting task is cancelled, about 100 bytes each
(https://github.com/grpc/grpc/issues/43360). Hedging, taking over, time-outs and callers that go away all cancel reads. A read
that is in flight when its *call* is cancelled loses nothing: it ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(step: Coroutine[Any, Any, T], cancel_call: Callable[[], object] | None = None) -> T:
    """Awaits a read or a write of a call, which goes on where the caller is cancelled.

    A client gives `cancel_call`, which is called then: as with grpc.aio's own reads, a cancelled read ends the call. A server's
    call has ended when its handler is cancelled.
    """
    task = asyncio.ensure_future(step)
    task.add_done_callback(_note)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if cancel_call is not None:
            cancel_call()
        raise
    finally:
        del task  # its error's traceback refers to this frame: what waits for the error would stay with it in a circle


def _note(task: asyncio.Task[Any]) -> None:
    """Takes note of an error that nobody waits for any more, which asyncio would log."""
    if not task.cancelled():
        task.exception()
