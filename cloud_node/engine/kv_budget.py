"""Bounds the memory of keys and values: those of running sequences, and behind them those of cached prefixes. Pure.

A sequence reserves a row for its longest answer before it starts, so that none ever has to give way in the middle. Cached
prefixes get what rows leave free, and give way to them (prefix_cache.py).

Whoever finds no room is told when there will be some, and has a place in a line until then: what becomes free is kept for those
who were refused before, so that the time that they were told comes true whoever else asks meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from cloud_node.engine.kv_rows import RowEnding, RowKind, RowRequest, RowsInUse
from splitvlm.errors import CapacityError, UsageError

FULL_RETRY_S = 1.0  # where nothing is known of what runs
LEAST_RETRY_S = 0.05
MARGIN = 1.1  # of the time that is told: tokens come slower when more sequences join
PLACE_S = 2.0  # how much longer than it was told a device keeps its place in the line,
PLACE_FACTOR = 0.5  # and by this part of it: devices add a random pause, so that not all come back at once


class _Waiting(NamedTuple):
    request: RowRequest
    due_s: float  # when its device was told to come back
    lapses_s: float


class KvBudget:
    """Holds the reservations of all sequences of one engine."""

    def __init__(self, max_bytes: int, row_bytes: Callable[[RowKind], int], rows_held: Callable[[int], int]) -> None:
        """Takes in `row_bytes` the size of one row; `rows_held` says how many are allocated where so many are used."""
        self.max_bytes = max_bytes
        self._rows = RowsInUse(row_bytes, rows_held)
        self._line: dict[str, _Waiting] = {}  # by device, whose turn is first comes first

    @property
    def held_bytes(self) -> int:
        """Returns the bytes that are allocated for all reservations together."""
        return self._rows.bytes_with()

    @property
    def free_bytes(self) -> int:
        """Returns the bytes that cached prefixes may take now."""
        return max(0, self.max_bytes - self.held_bytes)

    def reserve(self, request: RowRequest, now_s: float, endings: Callable[[], Iterable[RowEnding]]) -> None:
        """Takes a row for a device, which holds at most as much as it leaves free, or one row.

        `endings` tells of the rows in use when they will be given back; it is asked only where there is no room now. Raises
        CapacityError with a time to ask again, and UsageError where the row would never fit.
        """
        self._check_possible(request.kind)
        self._line = {device: waiting for device, waiting in self._line.items() if waiting.lapses_s > now_s}
        ahead, device, kind = self._ahead_of(request, now_s), request.device, request.kind
        in_share = self._rows.in_share(request, self.max_bytes)
        if in_share and self._rows.bytes_with([kind, *(other.kind for other in ahead)]) <= self.max_bytes:
            self._line.pop(device, None)
            self._rows.take(device, kind)
            return
        wait_s = self._rows.wait_s([*ahead, request], endings(), self.max_bytes)
        retry_s = FULL_RETRY_S if wait_s is None else max(LEAST_RETRY_S, MARGIN * wait_s)
        if not in_share:
            self._line.pop(device, None)
            raise _full(f"{device} holds its share of this cloud node's memory for caches", retry_s)
        self._line_up(request, now_s, retry_s)
        raise _full("This cloud node's memory for caches is full", retry_s)

    def release(self, device: str, kind: RowKind) -> None:
        """Gives a row back."""
        self._rows.give_back(device, kind)

    def _check_possible(self, kind: RowKind) -> None:
        if self._rows.row_bytes(kind) * max(2, self._rows.rows_held(1)) > self.max_bytes:
            raise UsageError(
                f"A prompt and answer of {kind.capacity} tokens do not fit this cloud node's memory for caches.",
                advice="Ask for fewer tokens, or raise limits.kv_budget_bytes on the cloud node.",
            )

    def _ahead_of(self, request: RowRequest, now_s: float) -> list[RowRequest]:
        """Returns the requests in the line before this one: all of them where its device has no place for such a row."""
        ahead = list[RowRequest]()
        for device, waiting in self._line.items():
            if device == request.device and waiting.request.kind == request.kind:
                return ahead
            if device != request.device:
                ahead.append(waiting.request._replace(returns_s=max(0.0, waiting.due_s - now_s)))
        return ahead

    def _line_up(self, request: RowRequest, now_s: float, retry_s: float) -> None:
        """Gives the device a place, or keeps the one that it has for such a row: each device has one."""
        waiting = self._line.get(request.device)
        if waiting is not None and waiting.request.kind != request.kind:
            del self._line[request.device]
        due_s = now_s + retry_s
        self._line[request.device] = _Waiting(request, due_s, due_s + PLACE_FACTOR * retry_s + PLACE_S)


def _full(why: str, retry_s: float) -> CapacityError:
    return CapacityError(f"{why}.", advice=f"Try again in {retry_s:.1f} s.", retry_after_s=retry_s)
