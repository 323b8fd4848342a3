"""Who may begin at a cloud node: quotas refill with time, memory comes back, devices take turns."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cloud_node.admission import FULL_RETRY_S, MOST_BUCKETS, Admission
from cloud_node.settings import Limits
from cloud_node.worker import Worker
from splitvlm.errors import CapacityError, UsageError
from splitvlm.rpc.status import failure, retry_after_ms


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_device_asks_as_often_as_its_quota_says_and_others_are_not_touched() -> None:
    clock = Clock()
    admission = Admission(Limits(requests_per_minute=6), Worker(), clock)
    for _ in range(6):
        admission.begin("edge-1")
    with pytest.raises(CapacityError, match=r"edge-1 has asked more than 6.0 times a minute") as refused:
        admission.begin("edge-1")
    assert refused.value.retry_after_s == pytest.approx(10.0)
    admission.begin("edge-2")
    clock.now_s = refused.value.retry_after_s
    admission.begin("edge-1")
    with pytest.raises(CapacityError):
        admission.begin("edge-1")
    clock.now_s += 3_600  # a long pause fills the quota, and no more than that
    for _ in range(6):
        admission.begin("edge-1")
    with pytest.raises(CapacityError):
        admission.begin("edge-1")


def test_quotas_of_many_devices_take_no_more_than_so_much_memory() -> None:
    admission = Admission(Limits(requests_per_minute=1), Worker(), Clock())
    for number in range(MOST_BUCKETS + 5):
        admission.begin(f"edge-{number}")
    assert len(admission._buckets) == MOST_BUCKETS


def test_what_a_request_holds_comes_back_once() -> None:
    admission = Admission(Limits(working_bytes=2**20), Worker())
    first, second = admission.hold(), admission.hold()
    first.more(2**19)
    first.more(2**18)
    with pytest.raises(CapacityError, match="memory for running requests is full") as refused:
        second.more(2**19)
    assert refused.value.retry_after_s == FULL_RETRY_S
    assert admission.working_bytes == 2**19 + 2**18
    first.release()
    first.release()
    assert admission.working_bytes == 0
    second.more(2**20)


def test_when_to_ask_again_crosses_the_wire() -> None:
    error = CapacityError("Full.", advice="Later.", retry_after_s=1.2345)
    back = failure(error.code, error.sentence, error.advice, retry_after_ms(error))
    assert isinstance(back, CapacityError)
    assert (back.sentence, back.advice, back.retry_after_s) == ("Full.", "Later.", 1.235)
    assert retry_after_ms(UsageError("No.")) == 0


async def test_devices_take_turns_however_many_jobs_one_has() -> None:
    worker, order, go = Worker(), list[str](), threading.Event()
    first = asyncio.create_task(worker.run("greedy", go.wait, 10))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(worker.run("greedy", order.append, "greedy")) for _ in range(4)]
    await asyncio.sleep(0)
    waiting += [asyncio.create_task(worker.run(name, order.append, name)) for name in ("shy", "shy", "late")]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *waiting)
    assert order == ["greedy", "shy", "late", "greedy", "shy", "greedy", "greedy"]
    worker.close()


async def test_a_job_that_is_given_up_while_it_waits_never_runs() -> None:
    worker, ran, go = Worker(), list[str](), threading.Event()
    first = asyncio.create_task(worker.run("a", go.wait, 10))
    await asyncio.sleep(0)
    given_up = asyncio.create_task(worker.run("b", ran.append, "b"))
    last = asyncio.create_task(worker.run("c", ran.append, "c"))
    await asyncio.sleep(0)
    given_up.cancel()
    go.set()
    await asyncio.gather(first, last)
    assert ran == ["c"]
    worker.close()


async def test_a_job_s_error_is_its_caller_s_and_the_next_job_runs() -> None:
    worker = Worker()
    with pytest.raises(ZeroDivisionError):
        await worker.run("a", lambda: 1 / 0)
    result, spent = await worker.run("a", lambda: 7)
    assert result == 7
    assert spent.busy_s >= 0
    worker.close()


async def test_a_queue_that_is_too_long_takes_nobody() -> None:
    worker, go = Worker(), threading.Event()
    worker.mean_busy_s = 2.0
    admission = Admission(Limits(max_queue_s=5.0), worker)
    jobs = [asyncio.create_task(worker.run(name, go.wait, 10)) for name in ("a", "b", "c", "d", "d", "d")]
    await asyncio.sleep(0)
    assert worker.expected_queue_s("new") == 2.0 * 4  # the running one, and one of each that waits
    with pytest.raises(CapacityError, match=r"queue is 8.0 s long") as refused:
        admission.begin("new")
    assert refused.value.retry_after_s == pytest.approx(8.0 - 5.0 + FULL_RETRY_S)
    go.set()
    await asyncio.gather(*jobs)
    admission.begin("new")
    worker.close()
