"""The one thread in which torch runs. The event loop stays free, and jobs of many sessions take turns.

Each session has at most one job waiting (a prefill, or one token), so first come, first served is fair: with n sessions
active each gets every n-th job, however long its answer is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Spent(NamedTuple):
    """Seconds that a job waited, and ran."""

    queue_s: float
    busy_s: float


class Worker:
    """Runs jobs one after another. `mean_queue_s` is an exponential mean over about the last 20 jobs."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")
        self.mean_queue_s = 0.0

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, Spent]:
        """The job's result and its times. A caller that is cancelled while the job waits takes it out of the queue."""
        asked_s = time.perf_counter()

        def timed() -> tuple[T, float, float]:
            started_s = time.perf_counter()
            result = job(*args, **kwargs)
            return result, started_s, time.perf_counter()

        result, started_s, ended_s = await asyncio.get_running_loop().run_in_executor(self._executor, timed)
        spent = Spent(started_s - asked_s, ended_s - started_s)
        self.mean_queue_s += (spent.queue_s - self.mean_queue_s) / 20
        return result, spent

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)
