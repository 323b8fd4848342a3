"""A lane: one thread in which jobs run one after another, devices in turn (`turns.py`). The event loop stays free meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from cloud_node.engine.protocol import JobTimes
from cloud_node.engine.recent import RecentMean
from cloud_node.engine.turns import Turns

T = TypeVar("T")

BUSY_WINDOW_S = 60.0  # how long jobs take changes with the requests, not with the load
LAST_JOB_S = 1.0  # a running job gets so long to end when the node stops


class _Job(NamedTuple):
    work: Callable[[], Any]
    asked_s: float
    done: asyncio.Future[tuple[Any, JobTimes]]


_WAKE = _Job(lambda: None, 0.0, None)  # type: ignore[arg-type]  # no job: the thread looks what else there is to do


class _Outcome(NamedTuple):
    result: Any
    error: BaseException | None
    started_s: float
    ended_s: float


class Lane:
    """Runs jobs in one thread, and holds those that wait for it; used from one event loop.

    The thread is a daemon: a job that runs on does not keep the process.
    """

    def __init__(
        self,
        name: str,
        waits: RecentMean,
        clock: Callable[[], float] = time.monotonic,
        between: Callable[[], bool] = lambda: False,
    ) -> None:
        """Takes `waits`, which is told how long each job waited, in seconds; several lanes may share it.

        `between` runs in the thread before each job, and again and again while no job waits as long as it returns True.
        """
        self._between = between
        self._turns: Turns[_Job] = Turns()
        self._running = False
        self.jobs = 0  # that were begun
        self._waits = waits
        self._clock = clock
        self.busy = RecentMean(BUSY_WINDOW_S)
        self._handed: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def in_work(self) -> bool:
        """Tells whether a job runs or waits."""
        return self._running or bool(self._turns)

    async def run(self, owner: str, work: Callable[[], T]) -> tuple[T, JobTimes]:
        """Returns the job's result and its times. A caller that is cancelled while the job waits takes it out of the queue."""
        done: asyncio.Future[tuple[T, JobTimes]] = asyncio.get_running_loop().create_future()
        self._turns.add(owner, _Job(work, time.perf_counter(), done))
        self._next()
        return await done

    def expected_queue_s(self, owner: str) -> float:
        """Returns how long a further job of this owner would wait."""
        return (self._turns.num_ahead(owner) + self._running) * self.busy.at(self._clock())

    def note_wait(self, queue_s: float) -> None:
        """Notes how long work waited that is no job of the lane, beside what its jobs wait."""
        self._waits.note(queue_s, self._clock())

    def wake(self) -> None:
        """Lets `between` run, although no job waits. May be called from any thread."""
        self._handed.put(_WAKE)

    def close(self) -> bool:
        """Ends the thread; returns whether it has ended within LAST_JOB_S: no job can be cut short."""
        self._turns.clear()
        self._handed.put(None)
        self._thread.join(LAST_JOB_S)
        return not self._thread.is_alive()

    def _next(self) -> None:
        """Starts the job whose turn it is, unless one runs."""
        while self._turns and not self._running:
            job = self._turns.take()
            if not job.done.cancelled():
                self._running = True
                self.jobs += 1
                self._handed.put(job)

    def _work(self) -> None:
        while (job := self._handed_over()) is not None:
            if job is not _WAKE:
                self._do(job)
            del job  # what it holds goes while the thread waits for another

    def _do(self, job: _Job) -> None:
        outcome = _outcome(job.work)
        with contextlib.suppress(RuntimeError):  # the event loop has ended before the job
            job.done.get_loop().call_soon_threadsafe(self._ended, job, outcome)

    def _handed_over(self) -> _Job | None:
        """Returns the next job, or None at the end. Blocks only while nothing is to do between jobs."""
        while self._between():
            with contextlib.suppress(Empty):
                return self._handed.get_nowait()
        return self._handed.get()

    def _ended(self, job: _Job, outcome: _Outcome) -> None:
        self._running = False
        times = JobTimes(outcome.started_s - job.asked_s, outcome.ended_s - outcome.started_s)
        if outcome.error is None:
            now_s = self._clock()
            self._waits.note(times.queue_s, now_s)
            self.busy.note(times.busy_s, now_s)
        self._next()
        if not job.done.done():
            if outcome.error is not None:
                job.done.set_exception(outcome.error)
            else:
                job.done.set_result((outcome.result, times))


def _outcome(work: Callable[[], Any]) -> _Outcome:
    started_s = time.perf_counter()
    try:
        return _Outcome(work(), None, started_s, time.perf_counter())
    except BaseException as error:  # noqa: BLE001 (it is the caller's; the lane's thread goes on)
        return _Outcome(None, error, started_s, time.perf_counter())
