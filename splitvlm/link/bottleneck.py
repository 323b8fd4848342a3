"""The queue before the link, in one direction: when does a packet that arrives now leave it? Pure, `now_s` passed in.

Packets leave in the order in which they came, each when the trace has carried its last byte, counted from its arrival
or from the departure of the one before it, whichever is later. So a busy link loses no capacity to late timers, an idle
link saves none up, and nothing drifts: every departure is an absolute time.
"""

from __future__ import annotations

import math
from collections import deque

from splitvlm.link.traces import Trace

PACKET_BYTES = 1448  # TCP payload of a 1500-byte packet with timestamps
QUANTUM_S = 0.002  # at high rates several packets go as one, as a network card would coalesce them
MAX_QUANTUM_BYTES = 65_536
MIN_QUEUE_S = 0.02  # a queue shorter than a busy machine's timers are late could not keep a fast link busy


class Bottleneck:
    """Models a queue of at most `queue_bytes` (and one packet) before a trace that begins at `t0_s`."""

    def __init__(self, trace: Trace, t0_s: float, *, queue_bytes: int) -> None:
        self._trace = trace
        self._t0_s = t0_s
        self._queue_bytes = queue_bytes
        self._free_s = t0_s  # when the last packet will have left
        self._waiting: deque[tuple[float, int]] = deque()  # (departure, bytes), rising
        self._backlog_bytes = 0

    def turn(self, trace: Trace) -> None:
        """Takes another link from now on. What has been taken already leaves as it was booked."""
        self._trace = trace

    def quantum_bytes(self, now_s: float) -> int:
        """Returns how many bytes to take from a sender at once: one packet, or what crosses in a quantum."""
        crossing = self._trace.capacity_bytes(now_s - self._t0_s, now_s - self._t0_s + QUANTUM_S)
        return int(min(max(crossing, PACKET_BYTES), MAX_QUANTUM_BYTES))

    def room_at_s(self, now_s: float) -> float:
        """Returns when the queue next has room: `now_s`, a later time, or never (infinite)."""
        self._drain(now_s)
        limit = max(self._queue_bytes, self._trace.capacity_bytes(now_s - self._t0_s, now_s - self._t0_s + MIN_QUEUE_S))
        surplus = self._backlog_bytes - limit
        for departure_s, n_bytes in self._waiting:
            if surplus < 0:
                break
            surplus -= n_bytes
            now_s = departure_s
        return now_s

    def book(self, now_s: float, n_bytes: int) -> float:
        """Takes a packet into the queue. Returns when its last byte has crossed (infinite on a dead link)."""
        start_s = max(now_s, self._free_s)
        if math.isfinite(start_s):
            self._free_s = start_s + self._trace.time_to_deliver(start_s - self._t0_s, n_bytes)
        self._waiting.append((self._free_s, n_bytes))
        self._backlog_bytes += n_bytes
        return self._free_s

    def block_until(self, until_s: float) -> None:
        """Lets nothing more leave before this time: the link was cut until then. Waiting packets go first, at once."""
        self._free_s = max(self._free_s, until_s)

    def _drain(self, now_s: float) -> None:
        while self._waiting and self._waiting[0][0] <= now_s:
            self._backlog_bytes -= self._waiting.popleft()[1]
