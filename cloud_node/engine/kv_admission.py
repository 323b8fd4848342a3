"""Applies the budget (kv_budget.py) to an engine's sequences: who gets memory for keys and values, and how long they run.

Cached prefixes are told what is left for them whenever that changes, before a sequence allocates what they give up.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from statistics import fmean

from cloud_node.engine.kv_budget import KvBudget
from cloud_node.engine.kv_rows import RowEnding, RowKind, RowRequest
from cloud_node.engine.recent import RecentMean

TOKENS_WINDOW_S = 60.0  # how fast tokens come changes with the load,
RECENT_TOKENS = 16  # so that a running sequence goes by its last ones

_log = logging.getLogger("splitvlm.cloud.engine")


class KvRow:
    """Holds one sequence's row, from its admission until it is given back; and how far the sequence has come."""

    def __init__(self, admission: KvAdmission, device: str, kind: RowKind, max_new_tokens: int) -> None:
        self.device = device
        self.kind = kind
        self._admission = admission
        self._limit = max_new_tokens
        self._num_tokens = 0
        self._times_s: deque[float] = deque(maxlen=RECENT_TOKENS)

    def note_token(self) -> None:
        """Notes that a token was chosen. Called in the engine's thread."""
        self._times_s.append(self._admission.clock())
        self._num_tokens += 1

    def give_back(self) -> None:
        """Gives the row back; a second call does nothing. Called in the event loop."""
        self._admission.take_back(self)

    @property
    def token_s(self) -> float | None:
        """Returns the seconds from one token to the next, of the last ones; None before the second."""
        times_s = tuple(self._times_s)  # the thread may add one meanwhile
        return (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else None

    def left_s(self, token_s: float, prompt_s: float) -> float:
        """Returns when its longest answer ends, where a token takes `token_s` and a prompt is read in `prompt_s`."""
        own_s = self.token_s
        waits_s = 0.0 if self._num_tokens else prompt_s
        return waits_s + (self._limit - self._num_tokens) * (token_s if own_s is None else own_s)


class KvAdmission:
    """Holds the rows of one engine's sequences. Used from its event loop."""

    def __init__(
        self,
        budget: KvBudget,
        leave: Callable[[int], None],
        prompt_s: Callable[[str], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes `leave`, which is told how many bytes cached prefixes may take.

        `prompt_s` tells in how many seconds a device's prompt is read, those that wait included.
        """
        self.budget = budget
        self.clock = clock
        self._leave = leave
        self._prompt_s = prompt_s
        self._rows: set[KvRow] = set()
        self._token_s = RecentMean(TOKENS_WINDOW_S)  # of sequences that ended
        self._pass_s = 0.0  # that the engine's last pass took
        self._tell()

    def use(self, max_bytes: int) -> None:
        """Takes another bound, for sequences that start from now on."""
        self.budget.max_bytes = max_bytes
        self._tell()

    def admit(self, device: str, kind: RowKind, max_new_tokens: int) -> KvRow:
        """Returns a row for a sequence. Raises CapacityError with a time to ask again, and UsageError where it never fits."""
        held_s = self._prompt_s(device) + max_new_tokens * self._mean_token_s()
        self.budget.reserve(RowRequest(device, kind, held_s), self.clock(), self._endings)
        row = KvRow(self, device, kind, max_new_tokens)
        self._rows.add(row)
        self._tell()
        return row

    def note_pass(self, pass_s: float) -> None:
        """Notes how long a pass took: what a token takes, where no sequence has told yet. Called in the engine's thread."""
        self._pass_s = pass_s

    def take_back(self, row: KvRow) -> None:
        """Frees a row, unless that was done before."""
        if row not in self._rows:
            return
        self._rows.remove(row)
        if row.token_s is not None:
            self._token_s.note(row.token_s, self.clock())
        self.budget.release(row.device, row.kind)
        self._tell()

    def _endings(self) -> Iterator[RowEnding]:
        """Yields when each row is expected to be given back; nothing before it is known how long a token takes."""
        token_s = self._mean_token_s()
        for row in self._rows if token_s else ():
            yield RowEnding(row.left_s(token_s, self._prompt_s(row.device)), row.device, row.kind)

    def _mean_token_s(self) -> float:
        """Returns how long a token takes: of what runs now, of what ran lately, or a pass; 0 where that is unknown."""
        running = [row.token_s for row in self._rows if row.token_s is not None]
        return fmean(running) if running else self._token_s.at(self.clock()) or self._pass_s

    def _tell(self) -> None:
        self._leave(self.budget.free_bytes)
        _log.debug("rows", extra={"rows": len(self._rows), "row_bytes": self.budget.held_bytes})
