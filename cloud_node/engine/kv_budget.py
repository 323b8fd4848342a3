"""How much memory keys and values of running sequences may take. Pure: plain numbers in, plain numbers out.

A sequence reserves room for its longest answer before it starts, so that none ever has to give way in the middle. Rows of equal
capacity are allocated a few at a time, and count as allocated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from splitvlm.errors import CapacityError, UsageError

FULL_RETRY_S = 1.0  # where nothing tells when a sequence will end


@dataclass(frozen=True, slots=True)
class RowKind:
    """Rows that lie together: they have the same layers, and room for as many tokens."""

    num_layers: int
    capacity: int  # tokens


class KvBudget:
    """Reservations of all sequences of one engine."""

    def __init__(self, max_bytes: int, row_bytes: Callable[[RowKind], int], rows_held: Callable[[int], int]) -> None:
        """`row_bytes` is the size of one row; `rows_held` says how many are allocated where so many are used."""
        self._max_bytes = max_bytes
        self._row_bytes = row_bytes
        self._rows_held = rows_held
        self._rows: Counter[RowKind] = Counter()

    @property
    def held_bytes(self) -> int:
        """What is allocated for all reservations together."""
        return sum(self._row_bytes(kind) * self._rows_held(count) for kind, count in self._rows.items())

    def reserve(self, kind: RowKind, retry_after_s: float = FULL_RETRY_S) -> None:
        """Takes a row. Raises CapacityError where it does not fit beside the others, UsageError where it never would."""
        if self._row_bytes(kind) * self._rows_held(1) > self._max_bytes:
            raise UsageError(
                f"A prompt and answer of {kind.capacity} tokens do not fit this cloud node's memory for caches.",
                advice="Ask for fewer tokens, or raise limits.kv_budget_bytes on the cloud node.",
            )
        self._rows[kind] += 1
        if self.held_bytes > self._max_bytes:
            self.release(kind)
            raise CapacityError(
                "This cloud node's memory for caches is full.",
                advice=f"Try again in {retry_after_s:.1f} s.",
                retry_after_s=retry_after_s,
            )

    def release(self, kind: RowKind) -> None:
        """Gives a row back."""
        self._rows[kind] -= 1
        if not self._rows[kind]:
            del self._rows[kind]
