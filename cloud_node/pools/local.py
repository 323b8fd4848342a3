"""The pool of one worker in this process: the default."""

from __future__ import annotations

import asyncio
from typing import Protocol

from cloud_node.pools.protocol import PoolLoad, Worker
from cloud_node.settings import CloudLimits


class LocalWorker(Worker, Protocol):
    """Is a worker whose figures and end are in this process too."""

    @property
    def mean_queue_s(self) -> float:
        """Returns how long work of the last seconds waited; 0 where there was none."""

    def use(self, limits: CloudLimits) -> None:
        """Gives it other limits, for sessions that open from now on."""

    def close(self) -> bool:
        """Ends its threads, and waits a little for what runs; returns whether they have ended."""


class LocalPool:
    """Implements `Pool` (protocol.py): every session goes to the one worker, whose methods are called directly."""

    def __init__(self, worker: LocalWorker) -> None:
        self._worker = worker

    @property
    def load(self) -> PoolLoad:
        """Returns the one worker's load."""
        return PoolLoad(1, self._worker.mean_queue_s)

    def worker_for(self, device: str) -> Worker:
        """Returns the one worker."""
        return self._worker

    async def watch(self) -> None:
        """Waits until it is cancelled: the one worker lives as long as this process."""
        await asyncio.Event().wait()

    def use(self, limits: CloudLimits) -> None:
        """Gives the worker other limits, for sessions that open from now on."""
        self._worker.use(limits)

    def close(self) -> bool:
        """Ends the worker; returns whether it has ended in time."""
        return self._worker.close()
