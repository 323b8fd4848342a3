"""Who may begin: quotas, the queue and memory are asked before any of a request's payload is taken.

Whoever is refused is told when it is worth asking again (`CapacityError.retry_after_s`): a device then turns to another cloud
node, answers by itself, or waits so long.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cloud_node.settings import Limits
from cloud_node.worker import Worker
from splitvlm.errors import CapacityError

FULL_RETRY_S = 1.0  # when memory or a session may be free again: what runs ends at any moment
MOST_BUCKETS = 10_000  # devices whose quotas are remembered; the longest unseen is forgotten, which fills its quota


@dataclass(slots=True)
class _Bucket:
    """A device's quota: refilled at its rate, at most to the brim."""

    left: float
    at_s: float


class Admission:
    """Of one cloud node, for all its sessions."""

    def __init__(self, limits: Limits, worker: Worker, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._worker = worker
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the longest unseen first
        self.working_bytes = 0

    def use(self, limits: Limits) -> None:
        """Other limits, from the next request on."""
        self._limits = limits

    def begin(self, device: str) -> None:
        """Books a request on the device's quota. Raises CapacityError where it may not begin."""
        self._within_queue(device)
        per_minute = self._limits.requests_per_minute
        if per_minute is None:
            return
        now_s, rate = self._clock(), per_minute / 60
        bucket = self._buckets.setdefault(device, _Bucket(per_minute, now_s))
        self._buckets.move_to_end(device)
        bucket.left = min(per_minute, bucket.left + rate * (now_s - bucket.at_s))
        bucket.at_s = now_s
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets.popitem(last=False)
        if bucket.left < 1:
            raise _refused(f"{device} has asked more than {per_minute} times a minute", (1 - bucket.left) / rate)
        bucket.left -= 1

    def hold(self) -> Hold:
        """What a request needs of memory, as it becomes known."""
        return Hold(self)

    def _within_queue(self, device: str) -> None:
        expected_s, most_s = self._worker.expected_queue_s(device), self._limits.max_queue_s
        if expected_s > most_s:
            raise _refused(f"This cloud node's queue is {expected_s:.1f} s long", expected_s - most_s + FULL_RETRY_S)


class Hold:
    """Bytes that one request holds, until it lets them go."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0

    def more(self, num_bytes: int) -> None:
        """Before they are allocated. Raises CapacityError where they do not fit beside what others hold."""
        admission = self._admission
        most = admission._limits.working_bytes
        if admission.working_bytes + num_bytes > most:
            raise _refused("This cloud node's memory for running requests is full", FULL_RETRY_S)
        admission.working_bytes += num_bytes
        self._bytes += num_bytes

    def release(self) -> None:
        """All of it; once more does nothing."""
        self._admission.working_bytes -= self._bytes
        self._bytes = 0


def _refused(why: str, retry_after_s: float) -> CapacityError:
    return CapacityError(f"{why}.", advice=f"Try again in {retry_after_s:.1f} s.", retry_after_s=retry_after_s)
