"""How every node starts, says that it is ready, and stops: one ready line on standard output, SIGTERM and SIGINT drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from splitvlm.crypto.identity import Identity, load_identity
from splitvlm.errors import ConfigError
from splitvlm.settings import Security


def identity_of(security: Security) -> Identity | None:
    """The node's identity, or None where plaintext was asked for. Raises ConfigError, KeysError."""
    if security.plaintext:
        return None
    if security.keys is None:
        raise ConfigError(
            "security.keys is missing: nodes speak mutual TLS.",
            advice="Run `splitvlm keys init` and `splitvlm keys issue NODE --role ROLE`, and name the node's folder there.",
        )
    return load_identity(security.keys)


def print_ready(kind: str, **facts: object) -> None:
    """`splitvlm KIND ready key=value ...`: what scripts and tests wait for."""
    print(f"splitvlm {kind} ready", *(f"{key}={value}" for key, value in facts.items()), flush=True)


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Tasks that run beside the server and are cancelled with it."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the signal. A background task that fails ends the node with its error rather than in silence."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    if stopping not in done:
        stopping.cancel()
        for task in done:
            task.result()
