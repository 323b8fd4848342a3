"""Starts and stops every node in one way: one ready line on standard output, SIGTERM and SIGINT drain.

A node that demo, `verify`, a benchmark or a test started ends with it, also where that was killed and can stop nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, NoReturn

from splitvlm.crypto.exchange import has_mlkem
from splitvlm.crypto.identity import Identity, load_identity
from splitvlm.errors import ConfigError
from splitvlm.settings import Security

LAUNCHER = "SPLITVLM_LAUNCHER"  # environment: the process that a node must not outlive
LOOK_S = 1.0


def identity_of(security: Security) -> Identity | None:
    """Returns the node's identity, or None where plaintext was asked for. Raises ConfigError, KeysError."""
    if security.plaintext:
        return None
    if security.keys is None:
        raise ConfigError(
            "security.keys is missing: nodes speak mutual TLS.",
            advice="Run `splitvlm keys init` and `splitvlm keys issue NODE --role ROLE`, and name the node's folder there.",
        )
    if security.require_post_quantum and not has_mlkem():
        raise ConfigError(
            "security.require_post_quantum is true, but the OpenSSL under `cryptography` has no ML-KEM-768.",
            advice="Install a newer `cryptography`, or set it to false on the nodes at both ends.",
        )
    return load_identity(security.keys, require_post_quantum=security.require_post_quantum)


def print_ready(kind: str, **facts: object) -> None:
    """Prints `splitvlm KIND ready key=value ...`, which scripts and tests wait for."""
    print(f"splitvlm {kind} ready", *(f"{key}={value}" for key, value in facts.items()), flush=True)


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """Yields an event that SIGTERM and SIGINT set, and the end of the process that started this one for itself."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    launcher = os.environ.get(LAUNCHER)
    watching = loop.create_task(_end_with(launcher, stop)) if launcher else None
    try:
        yield stop
    finally:
        if watching is not None:
            watching.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _end_with(launcher: str, stop: asyncio.Event) -> None:
    while str(os.getppid()) == launcher:  # noqa: ASYNC110 (nothing tells of a parent's end)
        await asyncio.sleep(LOOK_S)
    stop.set()


@contextlib.asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Tasks that run beside the server and are cancelled with it."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def end_now() -> NoReturn:
    """Ends the process in order, although one of its threads still computes, which nothing can cut short."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def until(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Waits for the signal. A background task that fails ends the node with its error rather than in silence."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    if stopping not in done:
        stopping.cancel()
        for task in done:
            task.result()
