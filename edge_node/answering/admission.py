"""Admits questions: their number is bounded, and the memory of their pictures and of their keys and values.

A picture's memory is told by its header, before a pixel is decoded; that of keys and values by the prompt, before the language
model reads it. It is booked until the question's last job in a thread has ended.
Whoever is refused is told when it is worth asking again.
"""

from __future__ import annotations

from edge_node.settings import EdgeLimits
from splitvlm.errors import CapacityError, UsageError

FULL_RETRY_S = 1.0  # when there may be room again: a question ends at any moment


class Admission:
    """Counts the questions in work on a node, and the bytes that they take."""

    def __init__(self, limits: EdgeLimits) -> None:
        self._limits = limits
        self.questions = 0
        self.working_bytes = 0

    def use(self, limits: EdgeLimits) -> None:
        """Takes other limits, from the next question on."""
        self._limits = limits

    def begin(self) -> Booking:
        """Books a question, until its booking is released. Raises CapacityError."""
        if self.questions >= self._limits.questions:
            raise _full(f"This edge node works on {self.questions} questions, which is its limit")
        self.questions += 1
        return Booking(self)

    def _take(self, num_bytes: int, held_bytes: int) -> None:
        most = self._limits.working_bytes
        if held_bytes + num_bytes > most:
            raise UsageError(
                f"A question that takes {held_bytes + num_bytes} bytes of memory is not taken; at most {most} are.",
                advice="Send a smaller picture, ask for fewer tokens, or raise limits.working_bytes of the edge node.",
            )
        if self.working_bytes + num_bytes > most:
            raise _full("This edge node's memory for questions is full")
        self.working_bytes += num_bytes


class Booking:
    """Holds one question's place and bytes until it is released."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._num_bytes = 0
        self._released = False

    def take(self, num_bytes: int) -> None:
        """Books more bytes before they are allocated.

        Raises CapacityError where others hold too much, UsageError where they never fit.
        """
        self._admission._take(num_bytes, self._num_bytes)
        self._num_bytes += num_bytes

    def release(self) -> None:
        """Gives all of it back. Calling it again does nothing."""
        if not self._released:
            self._released = True
            self._admission.questions -= 1
            self._admission.working_bytes -= self._num_bytes


def _full(why: str) -> CapacityError:
    return CapacityError(f"{why}.", advice=f"Try again in {FULL_RETRY_S:g} s.", retry_after_s=FULL_RETRY_S)
