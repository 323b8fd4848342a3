"""Who may begin at a cloud node: quotas refill with time, memory comes back, devices take turns."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cloud_node.admission import FULL_RETRY_S, MOST_BUCKETS, Admission
from cloud_node.settings import CloudLimits
from cloud_node.worker import BUSY_WINDOW_S, Worker
from orchestrator.settings import OrchestratorSettings
from splitvlm.errors import CapacityError, UsageError
from splitvlm.rpc.status import failure, retry_after_ms


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_device_asks_as_often_as_its_quota_says_and_others_are_not_touched() -> None:
    clock = Clock()
    admission = Admission(CloudLimits(requests_per_minute=6), Worker(), clock)
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
    admission = Admission(CloudLimits(requests_per_minute=1), Worker(), Clock())
    for number in range(MOST_BUCKETS + 5):
        admission.begin(f"edge-{number}")
    assert len(admission._buckets) == MOST_BUCKETS


def test_what_a_request_holds_comes_back_once() -> None:
    admission = Admission(CloudLimits(working_bytes=2**20), Worker())
    first, second = admission.reservation("edge-1"), admission.reservation("edge-2")
    first.more(2**18)
    second.more(2**18)
    with pytest.raises(CapacityError) as refused:
        second.more(2**18)
    assert refused.value.retry_after_s == FULL_RETRY_S
    assert admission.working_bytes == 2**19, "what was refused is not booked"
    first.become(2**10)
    assert admission.working_bytes == 2**18 + 2**10
    second.become(2**19 - 2**10)
    first.release()
    first.release()
    assert admission.working_bytes == 2**19 - 2**10
    second.release()
    assert admission.working_bytes == 0
    assert not admission._held, "a device that holds nothing is not remembered"


def take_all(admission: Admission, device: str) -> None:
    while True:
        admission.reservation(device).more(2**10)


def test_no_number_of_requests_of_a_device_takes_the_room_of_others() -> None:
    admission = Admission(CloudLimits(working_bytes=2**20), Worker())
    for device in ("greedy-1", "greedy-2", "greedy-3"):
        with pytest.raises(CapacityError, match=f"{device} holds its share"):
            take_all(admission, device)
        shy = admission.reservation("shy")
        shy.more(2**16)
        shy.release()
    assert admission._held["greedy-1"] == 2**19, "one alone gets half"
    with pytest.raises(CapacityError, match="memory for running requests is full"):
        admission.check("shy", 2**20)


def test_a_request_that_can_never_have_its_memory_is_not_told_to_come_back() -> None:
    reservation = Admission(CloudLimits(working_bytes=2**20), Worker()).reservation("edge-1")
    reservation.more(2**18)
    for grow in (
        lambda: reservation.more(2**18 + 1),
        lambda: reservation.become(2**19 + 1),
        lambda: reservation.check(2**20),
    ):
        with pytest.raises(UsageError, match="at most 524288 are"):
            grow()
    assert reservation.num_bytes == 2**18


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


async def test_tokens_do_not_wait_for_a_picture_of_another_device() -> None:
    """Opening a picture has a lane of its own, and pictures take turns there."""
    worker, go, order = Worker(), threading.Event(), list[str]()
    slow = asyncio.create_task(worker.prepare("slow", go.wait, 60))
    waiting = [asyncio.create_task(worker.prepare(name, order.append, name)) for name in ("slow", "slow", "other")]
    for _ in range(20):
        assert (await asyncio.wait_for(worker.run("other", lambda: 7), 20))[0] == 7
    assert not slow.done()
    go.set()
    await asyncio.gather(slow, *waiting)
    assert order == ["slow", "other", "slow"]
    assert worker.close()


async def test_an_idle_node_s_queue_is_empty_after_three_beats_and_its_past_does_not_refuse_anybody() -> None:
    clock = Clock()
    worker, go = Worker(clock), threading.Event()
    jobs = [asyncio.create_task(worker.run(name, go.wait, 10)) for name in "abcd"]
    await asyncio.sleep(0.05)
    go.set()
    await asyncio.gather(*jobs)
    assert worker.mean_queue_s > 0
    worker._model.busy.note(1e6, clock.now_s)  # a job that took very long, once
    clock.now_s = 3 * OrchestratorSettings().heartbeat_s
    assert worker.mean_queue_s == 0
    assert int(1e6 * worker.mean_queue_s) == 0
    clock.now_s = BUSY_WINDOW_S + 1
    other, stop = asyncio.create_task(worker.run("a", (again := threading.Event()).wait, 10)), again.set
    await asyncio.sleep(0)
    assert worker.expected_queue_s("b", picture=False) == 0
    stop()
    await other
    assert worker.close()


async def test_a_job_that_does_not_end_is_told_at_the_end_of_the_node() -> None:
    worker, go = Worker(), threading.Event()
    running = asyncio.create_task(worker.run("a", go.wait, 60))
    await asyncio.sleep(0)
    assert not worker.close()
    go.set()
    await running


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
    worker._model.busy.note(2.0, worker._clock())
    admission = Admission(CloudLimits(max_queue_s=5.0), worker)
    jobs = [asyncio.create_task(worker.run(name, go.wait, 10)) for name in ("a", "b", "c", "d", "d", "d")]
    await asyncio.sleep(0)
    assert worker.expected_queue_s("new", picture=True) == 2.0 * 4  # the running one, and one of each that waits
    with pytest.raises(CapacityError, match=r"queue is 8.0 s long") as refused:
        admission.begin("new")
    assert refused.value.retry_after_s == pytest.approx(8.0 - 5.0 + FULL_RETRY_S)
    go.set()
    await asyncio.gather(*jobs)
    admission.begin("new")
    worker.close()
