"""Decides what each pass of the engine `torch` runs: which answers move on, and how much of which prompt is read beside them.

Pure: no torch, no thread, no clock. Sequences may be anything that can be hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from cloud_node.engine.turns import Turns

S = TypeVar("S", bound=Hashable)

PASS_TOKENS = 48  # of answers and of a prompt's chunk together: what a pass takes grows slowly up to here on a CPU
BURST_TOKENS = 128  # instead, where more devices wait for a first token than answers for their next one
LEAST_CHUNK = 16


class PassPlan(NamedTuple, Generic[S]):
    """Says what one pass runs."""

    moving: list[S]  # running answers, whose last tokens are run
    reader: S | None  # whose prompt is read
    chunk_tokens: int  # that are read of it, at most


class Scheduler(Generic[S]):
    """Prompts that wait, the one that is read, and the answers that run.

    One prompt is read at a time, devices in turn. All answers that can move on do so in each pass.
    """

    def __init__(
        self,
        longest_prompt: int,
        pass_tokens: int = PASS_TOKENS,
        burst_tokens: int = BURST_TOKENS,
        least_chunk: int = LEAST_CHUNK,
    ) -> None:
        """`longest_prompt` is in tokens: where nothing runs, a prompt is read at once."""
        self._longest_prompt = longest_prompt
        self._pass_tokens, self._burst_tokens, self._least_chunk = pass_tokens, burst_tokens, least_chunk
        self._turns: Turns[S] = Turns()  # those that left are still in it, until their turn comes
        self._waiting: set[S] = set()
        self._reader: S | None = None
        self._running: dict[S, None] = {}  # in the order in which they joined

    @property
    def num_running(self) -> int:
        """Returns how many answers run."""
        return len(self._running)

    @property
    def num_unread(self) -> int:
        """Returns how many prompts wait or are read."""
        return len(self._waiting) + (self._reader is not None)

    def add_prompt(self, owner: str, sequence: S) -> None:
        """Lets a prompt wait for its owner's turn."""
        self._turns.add(owner, sequence)
        self._waiting.add(sequence)

    def join(self, sequence: S) -> None:
        """Lets an answer whose prompt was read run from the next pass on."""
        self._running[sequence] = None

    def is_running(self, sequence: S) -> bool:
        """Tells whether the answer runs."""
        return sequence in self._running

    def remove(self, sequence: S) -> None:
        """Takes a sequence out, wherever it is; nothing where it is nowhere."""
        self._running.pop(sequence, None)
        self._waiting.discard(sequence)
        if sequence == self._reader:
            self._reader = None

    def next_pass(self, is_ready: Callable[[S], bool]) -> PassPlan[S]:
        """Returns what to run now. `is_ready` tells which answers can move on: at lm:k those whose step has come."""
        while self._reader is None and self._turns:
            sequence = self._turns.take()
            if sequence in self._waiting:
                self._waiting.remove(sequence)
                self._reader = sequence
        moving = [sequence for sequence in self._running if is_ready(sequence)]
        return PassPlan(moving, self._reader, self._chunk_tokens(len(moving)))

    def has_work(self, is_ready: Callable[[S], bool]) -> bool:
        """Tells whether another pass would run anything."""
        return bool(self.num_unread) or any(map(is_ready, self._running))

    def _chunk_tokens(self, num_moving: int) -> int:
        """Returns how many tokens of a prompt are read beside so many answers.

        A pass reads all weights, whatever it runs: where few answers move on and many devices wait, fewer and longer passes
        give all of them their tokens sooner.
        """
        if not num_moving:
            return self._longest_prompt
        pass_tokens = self._burst_tokens if self._turns.num_owners > num_moving else self._pass_tokens
        return max(self._least_chunk, pass_tokens - num_moving)
