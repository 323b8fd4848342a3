"""Decides which requests may begin, and books their memory: quotas and the queue are asked before any payload is taken.

Whoever is refused is told when it is worth asking again (`CapacityError.retry_after_s`): a device then turns to another cloud
node, answers by itself, or waits so long.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cloud_node.settings import CloudLimits
from splitvlm.errors import CapacityError, UsageError

FULL_RETRY_S = 1.0  # when memory or a session may be free again: what runs ends at any moment
ExpectedQueue = Callable[[str, bool], float]
"""Tells how long a further request of a device would wait, in seconds; the second argument is whether it brings a picture."""
MOST_BUCKETS = 10_000  # devices whose quotas are remembered; the longest unseen is forgotten, which fills its quota


@dataclass(slots=True)
class _Bucket:
    """Holds one device's quota, which is refilled at its rate, at most to the brim."""

    left: float
    at_s: float


class Admission:
    """Admits the requests of all sessions of one worker."""

    def __init__(
        self, limits: CloudLimits, expected_queue_s: ExpectedQueue, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._expected_queue_s = expected_queue_s
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the longest unseen first
        self._held: Counter[str] = Counter()  # bytes by device; none that holds nothing

    @property
    def working_bytes(self) -> int:
        """Returns the bytes that all running requests hold."""
        return self._held.total()

    def use(self, limits: CloudLimits) -> None:
        """Takes other limits, from the next request on."""
        self._limits = limits

    def begin(self, device: str, *, picture: bool = False) -> None:
        """Books a request on the device's quota. Raises CapacityError where it may not begin."""
        self._within_queue(device, picture)
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

    def reservation(self, device: str) -> MemoryReservation:
        """Returns an empty reservation for a request of this device."""
        return MemoryReservation(self, device)

    def check(self, device: str, num_bytes: int) -> None:
        """Raises CapacityError where so many more bytes would exceed the device's share, or all that there is.

        A device may hold as much as it leaves free: one alone gets half of the memory, two a third each, and there is
        always room for another. Source: dynamic thresholds of shared buffers, Choudhury and Hahne, 1998.
        """
        most, total = self._limits.working_bytes, self.working_bytes + num_bytes
        if total > most:
            raise _refused("This cloud node's memory for running requests is full", FULL_RETRY_S)
        if self._held[device] + num_bytes > most - total:
            raise _refused(f"{device} holds its share of this cloud node's memory for running requests", FULL_RETRY_S)

    def _book(self, device: str, num_bytes: int) -> None:
        self._held[device] += num_bytes
        if not self._held[device]:
            del self._held[device]

    def _within_queue(self, device: str, picture: bool) -> None:
        expected_s, most_s = self._expected_queue_s(device, picture), self._limits.max_queue_s
        if expected_s > most_s:
            raise _refused(f"This cloud node's queue is {expected_s:.1f} s long", expected_s - most_s + FULL_RETRY_S)


class MemoryReservation:
    """Counts the bytes that one request holds until it ends. They are booked before they are allocated."""

    def __init__(self, admission: Admission, device: str) -> None:
        self._admission = admission
        self._device = device
        self.num_bytes = 0

    def check(self, num_bytes: int) -> None:
        """Raises CapacityError where so many more bytes have no room now, UsageError where they never would."""
        largest = self._admission._limits.working_bytes // 2
        if self.num_bytes + num_bytes > largest:
            raise UsageError(
                f"A request that takes {self.num_bytes + num_bytes} bytes of memory is not taken; at most {largest} are.",
                advice="Send a smaller picture, or raise limits.working_bytes on the cloud node.",
            )
        self._admission.check(self._device, num_bytes)

    def more(self, num_bytes: int) -> None:
        """Books so many more bytes. Raises the errors of `check`."""
        self.check(num_bytes)
        self._book(num_bytes)

    def become(self, num_bytes: int) -> None:
        """Books so many bytes in all from now on. Raises the errors of `check`."""
        if num_bytes > self.num_bytes:
            self.check(num_bytes - self.num_bytes)
        self._book(num_bytes - self.num_bytes)

    def release(self) -> None:
        """Gives all of it back; once more does nothing."""
        self._book(-self.num_bytes)

    def _book(self, num_bytes: int) -> None:
        self._admission._book(self._device, num_bytes)
        self.num_bytes += num_bytes


def _refused(why: str, retry_after_s: float) -> CapacityError:
    return CapacityError(f"{why}.", advice=f"Try again in {retry_after_s:.1f} s.", retry_after_s=retry_after_s)
