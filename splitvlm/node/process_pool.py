"""Processes that share a long computation, one thread each. They end with the process that started them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from splitvlm.model.threads import use_threads

LOOK_S = 1.0


def worker_pool(workers: int, begin: Callable[..., object] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """Starts a pool of fresh processes; each first calls `begin` with the arguments."""
    return ProcessPoolExecutor(workers, get_context("spawn"), _begin, (os.getpid(), begin, arguments))


def _begin(parent: int, begin: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    use_threads(1)
    if begin is not None:
        begin(*arguments)


def _end_with(parent: int) -> None:
    """Ends this worker with its parent: a killed process can't tell its workers, and they would go on with what they have."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)
