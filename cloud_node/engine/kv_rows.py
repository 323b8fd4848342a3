"""Counts rows of keys and values in use: what they take, whether one more fits, and when one more will. Pure: plain numbers.

Rows of equal capacity are allocated a few at a time, and count as allocated.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, order=True)
class RowKind:
    """Names rows that lie together: they have the same layers, and room for as many tokens."""

    num_layers: int
    capacity: int  # tokens


class RowRequest(NamedTuple):
    """Describes a row that a device asks for, now or when it comes back, and how long its answer is expected to hold it."""

    device: str
    kind: RowKind
    held_s: float = 0.0
    returns_s: float = 0.0  # from now


class RowEnding(NamedTuple):
    """Describes a row in use, and in how many seconds it is expected to be given back."""

    left_s: float
    device: str
    kind: RowKind


_NO_ROW = RowKind(0, 0)  # of a moment at which somebody comes back and nothing ends


class RowsInUse:
    """Counts the rows of all devices."""

    def __init__(self, row_bytes: Callable[[RowKind], int], rows_held: Callable[[int], int]) -> None:
        """Takes in `row_bytes` the size of one row; `rows_held` says how many are allocated where so many are used."""
        self.row_bytes = row_bytes
        self.rows_held = rows_held
        self._counts: Counter[RowKind] = Counter()
        self._by_device: Counter[str] = Counter()  # bytes of rows

    def bytes_with(self, kinds: Iterable[RowKind] = ()) -> int:
        """Returns what would be allocated with rows of these kinds besides."""
        counts = self._counts + Counter(kinds)
        return sum(self.row_bytes(kind) * self.rows_held(count) for kind, count in counts.items())

    def take(self, device: str, kind: RowKind) -> None:
        """Counts one more row."""
        self._change(device, kind, 1)

    def give_back(self, device: str, kind: RowKind) -> None:
        """Counts one row less."""
        self._change(device, kind, -1)

    def in_share(self, request: RowRequest, max_bytes: int) -> bool:
        """Tells whether the device would hold at most as much as it leaves free, or one row alone.

        One device gets half of the memory, two a third each, and there is nearly always room for another. Source: dynamic
        thresholds of shared buffers, Choudhury and Hahne, 1998.
        """
        row_bytes = self.row_bytes(request.kind)
        free_bytes = max_bytes - self.bytes_with([request.kind])
        return self._by_device[request.device] + row_bytes <= max(row_bytes, free_bytes)

    def wait_s(self, requests: Iterable[RowRequest], endings: Iterable[RowEnding], max_bytes: int) -> float | None:
        """Returns when the last of the requests gets its row, if they get theirs in this order as others end.

        None where all that is known of endings leaves it without room.
        """
        rows, waiting = self._copy(), deque(requests)
        events = [*endings, *(RowEnding(request.returns_s, "", _NO_ROW) for request in waiting)]
        heapq.heapify(events)
        while events:
            now_s, device, kind = heapq.heappop(events)
            if kind is not _NO_ROW:
                rows.give_back(device, kind)
            while waiting and waiting[0].returns_s <= now_s and rows._fits(waiting[0], max_bytes):
                admitted = waiting.popleft()
                if not waiting:
                    return now_s
                rows.take(admitted.device, admitted.kind)
                heapq.heappush(events, RowEnding(now_s + admitted.held_s, admitted.device, admitted.kind))
        return None

    def _fits(self, request: RowRequest, max_bytes: int) -> bool:
        return self.bytes_with([request.kind]) <= max_bytes and self.in_share(request, max_bytes)

    def _copy(self) -> RowsInUse:
        other = RowsInUse(self.row_bytes, self.rows_held)
        other._counts, other._by_device = self._counts.copy(), self._by_device.copy()
        return other

    def _change(self, device: str, kind: RowKind, count: int) -> None:
        self._counts[kind] += count
        self._by_device[device] += count * self.row_bytes(kind)
        if not self._counts[kind]:
            del self._counts[kind]
        if not self._by_device[device]:
            del self._by_device[device]
