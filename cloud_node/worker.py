"""The threads in which requests' jobs run. The event loop stays free, and jobs of many sessions take turns.

There are two lanes of one thread each. `run` is for the model: a prefill, a token, the decoding of features. `prepare` is for
pictures: opening them, and what the processor makes of them, takes seconds where they are large, and the tokens of other
devices do not wait for it.

Each session has at most one job waiting. In a lane devices take turns, and a device's sessions among themselves: with n
devices active each gets every n-th job, however many sessions it has and however long its answers are.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, ParamSpec, TypeVar

from cloud_node.recent import RecentMean

P = ParamSpec("P")
T = TypeVar("T")

QUEUE_WINDOW_S = 2.0  # below three beats of 0.75 s: by then an idle node has said that its queue is empty
BUSY_WINDOW_S = 60.0  # how long jobs take changes with the requests, not with the load
LAST_JOB_S = 1.0  # a running job gets so long to end when the node stops


class Spent(NamedTuple):
    """Seconds that a job waited, and ran."""

    queue_s: float
    busy_s: float


class Worker:
    """The model's lane and the pictures' lane. Used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waits = RecentMean(QUEUE_WINDOW_S)
        self._model = _Lane("torch", self._waits, clock)
        self._pictures = _Lane("pictures", self._waits, clock)

    async def run(self, owner: str, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, Spent]:
        """The job's result and its times. A caller that is cancelled while the job waits takes it out of the queue."""
        return await self._model.run(owner, partial(job, *args, **kwargs))

    async def prepare(self, owner: str, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, Spent]:
        """Like `run`, in the pictures' lane."""
        return await self._pictures.run(owner, partial(job, *args, **kwargs))

    async def measure(self, step: Callable[[], T]) -> T:
        """Runs a step of a measurement in turn with the jobs of sessions."""
        return (await self._model.run("", step))[0]

    @property
    def jobs(self) -> int:
        """How many jobs were handed to the model's lane."""
        return self._model.jobs

    @property
    def in_work(self) -> bool:
        """Whether any job runs or waits."""
        return any(lane.in_work for lane in (self._model, self._pictures))

    @property
    def mean_queue_s(self) -> float:
        """How long the jobs of the last seconds waited; 0 where there were none."""
        return self._waits.at(self._clock())

    def expected_queue_s(self, owner: str, *, picture: bool) -> float:
        """How long a further request of this owner would wait, for both lanes where it brings a picture."""
        model_s = self._model.expected_queue_s(owner)
        return model_s + self._pictures.expected_queue_s(owner) if picture else model_s

    def close(self) -> bool:
        """End the threads, and wait a little for the jobs that run. Whether they have ended: no job can be cut short."""
        return all([lane.close() for lane in (self._model, self._pictures)])


class _Job(NamedTuple):
    work: Callable[[], Any]
    asked_s: float
    done: asyncio.Future[tuple[Any, Spent]]


class _Outcome(NamedTuple):
    result: Any
    error: BaseException | None
    started_s: float
    ended_s: float


class _Lane:
    """One thread, and the jobs that wait for it. The thread is a daemon: a job that runs on does not keep the process."""

    def __init__(self, name: str, waits: RecentMean, clock: Callable[[], float]) -> None:
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()  # by owner, whose turn is next first
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
        return self._running or bool(self._waiting)

    async def run(self, owner: str, work: Callable[[], T]) -> tuple[T, Spent]:
        done: asyncio.Future[tuple[T, Spent]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(_Job(work, time.perf_counter(), done))
        self._next()
        return await done

    def expected_queue_s(self, owner: str) -> float:
        """Each other owner's turn comes once for each of this owner's own."""
        own = len(self._waiting.get(owner, ()))
        before = own + sum(min(len(jobs), own + 1) for other, jobs in self._waiting.items() if other != owner)
        return (before + self._running) * self.busy.at(self._clock())

    def close(self) -> bool:
        self._waiting.clear()
        self._handed.put(None)
        self._thread.join(LAST_JOB_S)
        return not self._thread.is_alive()

    def _next(self) -> None:
        """Start the job whose turn it is, unless one runs."""
        while self._waiting and not self._running:
            owner, jobs = self._waiting.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._waiting[owner] = jobs  # behind the others
            if not job.done.cancelled():
                self._running = True
                self.jobs += 1
                self._handed.put(job)

    def _work(self) -> None:
        while (job := self._handed.get()) is not None:
            outcome = _outcome(job.work)
            with contextlib.suppress(RuntimeError):  # the event loop has ended before the job
                job.done.get_loop().call_soon_threadsafe(self._ended, job, outcome)

    def _ended(self, job: _Job, outcome: _Outcome) -> None:
        self._running = False
        spent = Spent(outcome.started_s - job.asked_s, outcome.ended_s - outcome.started_s)
        if outcome.error is None:
            now_s = self._clock()
            self._waits.note(spent.queue_s, now_s)
            self.busy.note(spent.busy_s, now_s)
        self._next()
        if not job.done.done():
            if outcome.error is not None:
                job.done.set_exception(outcome.error)
            else:
                job.done.set_result((outcome.result, spent))


def _outcome(work: Callable[[], Any]) -> _Outcome:
    started_s = time.perf_counter()
    try:
        return _Outcome(work(), None, started_s, time.perf_counter())
    except BaseException as error:  # noqa: BLE001 (it is the caller's; the lane's thread goes on)
        return _Outcome(None, error, started_s, time.perf_counter())
