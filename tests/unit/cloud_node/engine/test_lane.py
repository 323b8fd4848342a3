"""A lane's thread: jobs in turn, cancelled ones left out, errors for their caller, and figures that forget."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from cloud_node.engine.lane import BUSY_WINDOW_S, Lane
from cloud_node.engine.recent import RecentMean
from cloud_node.worker.worker import QUEUE_WINDOW_S
from orchestrator.settings import OrchestratorSettings


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waits() -> RecentMean:
    return RecentMean(QUEUE_WINDOW_S)


@pytest.fixture
async def lane(waits: RecentMean, clock: Clock) -> AsyncIterator[Lane]:
    lane = Lane("test", waits, clock)
    yield lane
    assert lane.close()


async def waiting(lane: Lane, owner: str, job: Callable[[], object]) -> asyncio.Task[object]:
    """A job that has been handed to the lane."""
    task: asyncio.Task[object] = asyncio.create_task(lane.run(owner, job))
    await asyncio.sleep(0)
    return task


async def test_devices_take_turns_however_many_jobs_one_has(lane: Lane) -> None:
    order, go = list[str](), threading.Event()
    first = await waiting(lane, "greedy", partial(go.wait, 10))
    tasks = [await waiting(lane, "greedy", partial(order.append, "greedy")) for _ in range(4)]
    tasks += [await waiting(lane, name, partial(order.append, name)) for name in ("shy", "shy", "late")]
    go.set()
    await asyncio.gather(first, *tasks)
    assert order == ["greedy", "shy", "late", "greedy", "shy", "greedy", "greedy"]


async def test_one_lane_goes_on_while_another_is_busy(lane: Lane, waits: RecentMean) -> None:
    pictures, go = Lane("pictures", waits), threading.Event()
    slow = await waiting(pictures, "slow", partial(go.wait, 60))
    for _ in range(20):
        assert (await asyncio.wait_for(lane.run("other", lambda: 7), 20))[0] == 7
    assert not slow.done()
    assert pictures.in_work
    assert not lane.in_work
    go.set()
    await slow
    assert pictures.close()


async def test_an_idle_lane_s_queue_is_empty_after_three_beats_and_its_past_does_not_refuse_anybody(
    lane: Lane, waits: RecentMean, clock: Clock
) -> None:
    go = threading.Event()
    jobs = [await waiting(lane, name, partial(go.wait, 10)) for name in "abcd"]
    await asyncio.sleep(0.05)
    go.set()
    await asyncio.gather(*jobs)
    assert waits.at(clock.now_s) > 0
    lane.busy.note(1e6, clock.now_s)  # a job that took very long, once
    clock.now_s = 3 * OrchestratorSettings().heartbeat_s
    assert waits.at(clock.now_s) == 0
    clock.now_s = BUSY_WINDOW_S + 1
    stop = threading.Event()
    other = await waiting(lane, "a", partial(stop.wait, 10))
    assert lane.expected_queue_s("b") == 0
    stop.set()
    await other


async def test_a_queue_is_as_long_as_the_jobs_ahead(lane: Lane, clock: Clock) -> None:
    go = threading.Event()
    lane.busy.note(2.0, clock.now_s)
    jobs = [await waiting(lane, name, partial(go.wait, 10)) for name in ("a", "b", "c", "d", "d", "d")]
    assert lane.expected_queue_s("new") == 2.0 * 4  # the running one, and one of each that waits
    go.set()
    await asyncio.gather(*jobs)
    assert lane.expected_queue_s("new") == 0


async def test_a_job_that_does_not_end_is_told_at_the_end(waits: RecentMean) -> None:
    lane, go = Lane("stuck", waits), threading.Event()
    running = await waiting(lane, "a", partial(go.wait, 60))
    assert not lane.close()
    go.set()
    await running


async def test_a_job_that_is_given_up_while_it_waits_never_runs(lane: Lane) -> None:
    ran, go = list[str](), threading.Event()
    first = await waiting(lane, "a", partial(go.wait, 10))
    given_up = await waiting(lane, "b", partial(ran.append, "b"))
    last = await waiting(lane, "c", partial(ran.append, "c"))
    given_up.cancel()
    go.set()
    await asyncio.gather(first, last)
    assert ran == ["c"]


async def test_a_job_s_error_is_its_caller_s_and_the_next_job_runs(lane: Lane) -> None:
    with pytest.raises(ZeroDivisionError):
        await lane.run("a", lambda: 1 / 0)
    result, times = await lane.run("a", lambda: 7)
    assert result == 7
    assert times.busy_s >= 0
    assert lane.jobs == 2
