"""The order in which jobs run: owners take turns. Pure: no thread, no clock, no torch.

With n owners waiting each gets every n-th job, however many jobs it has.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Holds waiting jobs by owner. An owner's jobs keep their order."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()  # whose turn is next comes first

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def num_owners(self) -> int:
        """Returns how many owners have a job that waits."""
        return len(self._waiting)

    def add(self, owner: str, job: T) -> None:
        """Puts the job behind the owner's others; an owner without any goes behind all owners."""
        self._waiting.setdefault(owner, deque()).append(job)

    def take(self) -> T:
        """Removes and returns the job whose turn it is. Raises KeyError where none waits."""
        owner, jobs = self._waiting.popitem(last=False)
        job = jobs.popleft()
        if jobs:
            self._waiting[owner] = jobs  # behind the others
        return job

    def num_ahead(self, owner: str) -> int:
        """Counts the waiting jobs that run before one that this owner would add now."""
        own = len(self._waiting.get(owner, ()))
        ahead, rounds = 0, own + 1
        for other, jobs in self._waiting.items():
            if other == owner:
                ahead, rounds = ahead + own, own  # those behind it have one turn less before its next job
            else:
                ahead += min(len(jobs), rounds)
        return ahead

    def clear(self) -> None:
        """Drops all jobs."""
        self._waiting.clear()
