"""The one thread in which torch runs. The event loop stays free, and jobs of many sessions take turns.

Each session has at most one job waiting (a prefill, or one token). Devices take turns, and a device's sessions among
themselves: with n devices active each gets every n-th job, however many sessions it has and however long its answers are.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Spent(NamedTuple):
    """Seconds that a job waited, and ran."""

    queue_s: float
    busy_s: float


class _Job(NamedTuple):
    work: Callable[[], Any]
    asked_s: float
    done: asyncio.Future[tuple[Any, Spent]]


class Worker:
    """Runs jobs one after another. The means are exponential, over about the last 20 jobs."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()  # by owner, whose turn is next first
        self._running = False
        self.mean_queue_s = 0.0
        self.mean_busy_s = 0.0

    async def run(self, owner: str, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, Spent]:
        """The job's result and its times. A caller that is cancelled while the job waits takes it out of the queue."""
        done: asyncio.Future[tuple[T, Spent]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(_Job(partial(job, *args, **kwargs), time.perf_counter(), done))
        self._next()
        return await done

    def expected_queue_s(self, owner: str) -> float:
        """How long a further job of this owner would wait: each other owner's turn comes once for each of its own."""
        own = len(self._waiting.get(owner, ()))
        before = own + sum(min(len(jobs), own + 1) for other, jobs in self._waiting.items() if other != owner)
        return (before + self._running) * self.mean_busy_s

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> None:
        """Start the job whose turn it is, unless one runs."""
        while self._waiting and not self._running:
            owner, jobs = self._waiting.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._waiting[owner] = jobs  # behind the others
            if job.done.cancelled():
                continue
            self._running = True
            running = asyncio.get_running_loop().run_in_executor(self._executor, _timed, job.work)
            running.add_done_callback(partial(self._ended, job))

    def _ended(self, job: _Job, running: asyncio.Future[tuple[Any, float, float]]) -> None:
        self._running = False
        error = asyncio.CancelledError() if running.cancelled() else running.exception()
        if error is None:
            result, started_s, ended_s = running.result()
            spent = Spent(started_s - job.asked_s, ended_s - started_s)
            self.mean_queue_s += (spent.queue_s - self.mean_queue_s) / 20
            self.mean_busy_s += (spent.busy_s - self.mean_busy_s) / 20
        if not job.done.done():
            if error is not None:
                job.done.set_exception(error)
            else:
                job.done.set_result((result, spent))
        self._next()


def _timed(work: Callable[[], T]) -> tuple[T, float, float]:
    started_s = time.perf_counter()
    result = work()
    return result, started_s, time.perf_counter()
