"""Decides who may open a session, by counts of each device's open ones. Pure.

These are all that a front end can decide: a request begins inside a sealed frame, which it cannot read. Quotas of requests, the
queue and memory are the worker's (cloud_node/worker/admission.py).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from cloud_node.settings import CloudLimits
from splitvlm.errors import CapacityError

FULL_RETRY_S = 1.0  # when a session may be free again: what runs ends at any moment


class OpenSessions:
    """Counts the open sessions of all devices."""

    def __init__(self, limits: CloudLimits) -> None:
        self._limits = limits
        self.by_device: Counter[str] = Counter()  # none that has no session

    def use(self, limits: CloudLimits) -> None:
        """Takes other limits, for sessions that open from now on."""
        self._limits = limits

    @contextlib.contextmanager
    def opened(self, device: str) -> Iterator[None]:
        """Counts a session while it is open. Raises CapacityError where the device may not open it."""
        self._check(device)
        self.by_device[device] += 1
        try:
            yield
        finally:
            self.by_device[device] -= 1
            if not self.by_device[device]:
                del self.by_device[device]

    def _check(self, device: str) -> None:
        if self.by_device.total() >= self._limits.max_sessions:
            raise CapacityError(
                "This cloud node has no free session.",
                advice="Try again in a few seconds.",
                retry_after_s=FULL_RETRY_S,
            )
        if self.by_device[device] >= self._limits.max_sessions_per_device:
            raise CapacityError(
                f"{device} has {self.by_device[device]} sessions open, which is its limit.",
                advice="Close one first.",
                retry_after_s=FULL_RETRY_S,
            )
