"""How much memory keys and values of running sequences may take. Pure: plain numbers in, plain numbers out.

A sequence reserves room for its longest answer before it starts, so that none ever has to give way in the middle. Rows of equal
capacity are allocated a few at a time, and count as allocated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from splitvlm.errors import CapacityError, UsageError

FULL_RETRY_S = 1.0  # when a row may be free again: an answer ends at any moment


@dataclass(frozen=True, slots=True)
class RowKind:
    """Rows that lie together: they have the same layers, and room for as many tokens."""

    num_layers: int
    capacity: int  # tokens


class KvBudget:
    """Reservations of all sequences of one engine."""

    def __init__(self, max_bytes: int, row_bytes: Callable[[RowKind], int], rows_held: Callable[[int], int]) -> None:
        """`row_bytes` is the size of one row; `rows_held` says how many are allocated where so many are used."""
        self.max_bytes = max_bytes
        self._row_bytes = row_bytes
        self._rows_held = rows_held
        self._rows: Counter[RowKind] = Counter()
        self._by_device: Counter[str] = Counter()  # bytes of rows

    @property
    def held_bytes(self) -> int:
        """What is allocated for all reservations together."""
        return sum(self._row_bytes(kind) * self._rows_held(count) for kind, count in self._rows.items())

    def reserve(self, device: str, kind: RowKind) -> None:
        """Takes a row for a device. Raises CapacityError where it does not fit now, UsageError where it never would.

        A device may hold as much as it leaves free, as of the memory for payloads (cloud_node/worker/admission.py).
        """
        row_bytes = self._row_bytes(kind)
        if row_bytes * max(2, self._rows_held(1)) > self.max_bytes:
            raise UsageError(
                f"A prompt and answer of {kind.capacity} tokens do not fit this cloud node's memory for caches.",
                advice="Ask for fewer tokens, or raise limits.kv_budget_bytes on the cloud node.",
            )
        self._take(device, kind, 1)
        held_bytes = self.held_bytes
        if held_bytes > self.max_bytes:
            self._take(device, kind, -1)
            raise _full("This cloud node's memory for caches is full")
        if self._by_device[device] > max(row_bytes, self.max_bytes - held_bytes):
            self._take(device, kind, -1)
            raise _full(f"{device} holds its share of this cloud node's memory for caches")

    def release(self, device: str, kind: RowKind) -> None:
        """Gives a row back."""
        self._take(device, kind, -1)

    def _take(self, device: str, kind: RowKind, count: int) -> None:
        self._rows[kind] += count
        self._by_device[device] += count * self._row_bytes(kind)
        for counter, key in ((self._rows, kind), (self._by_device, device)):
            if not counter[key]:  # type: ignore[index]
                del counter[key]  # type: ignore[arg-type]


def _full(why: str) -> CapacityError:
    return CapacityError(f"{why}.", advice=f"Try again in {FULL_RETRY_S:g} s.", retry_after_s=FULL_RETRY_S)
