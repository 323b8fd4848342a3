"""Who may begin at a worker: quotas refill with time, memory comes back, and a queue that is too long takes nobody."""

from __future__ import annotations

import pytest

from cloud_node.settings import CloudLimits
from cloud_node.worker.admission import FULL_RETRY_S, MOST_BUCKETS, Admission
from splitvlm.errors import CapacityError, UsageError
from splitvlm.rpc.status import failure, retry_after_ms


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def no_queue(device: str, picture: bool) -> float:
    return 0.0


def test_a_device_asks_as_often_as_its_quota_says_and_others_are_not_touched() -> None:
    clock = Clock()
    admission = Admission(CloudLimits(requests_per_minute=6), no_queue, clock)
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
    admission = Admission(CloudLimits(requests_per_minute=1), no_queue, Clock())
    for number in range(MOST_BUCKETS + 5):
        admission.begin(f"edge-{number}")
    assert len(admission._buckets) == MOST_BUCKETS


def test_what_a_request_holds_comes_back_once() -> None:
    admission = Admission(CloudLimits(working_bytes=2**20), no_queue)
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
    assert not admission._held, "nothing is kept of a device that holds nothing"


def take_all(admission: Admission, device: str) -> None:
    while True:
        admission.reservation(device).more(2**10)


def test_no_number_of_requests_of_a_device_takes_the_room_of_others() -> None:
    admission = Admission(CloudLimits(working_bytes=2**20), no_queue)
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
    reservation = Admission(CloudLimits(working_bytes=2**20), no_queue).reservation("edge-1")
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


def test_a_queue_that_is_too_long_takes_nobody() -> None:
    queue_s = {False: 4.0, True: 8.0}
    admission = Admission(CloudLimits(max_queue_s=5.0), lambda _, picture: queue_s[picture])
    admission.begin("new")
    with pytest.raises(CapacityError, match=r"queue is 8.0 s long") as refused:
        admission.begin("new", picture=True)
    assert refused.value.retry_after_s == pytest.approx(8.0 - 5.0 + FULL_RETRY_S)
    queue_s[True] = 5.0
    admission.begin("new", picture=True)
