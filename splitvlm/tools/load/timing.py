"""Holds the times that were seen of one request. Times are seconds of `time.perf_counter`, less the run's start."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(slots=True)
class RequestTiming:
    """Holds the times of one request of one simulated device, by the device's clock.

    The terms are those of `vllm bench serve`: TTFT is the time from the request's start to its first token, ITL the gap between
    two tokens that follow each other, TPOT the mean gap, and E2E the time from the start to the answer's end.
    """

    device: int
    started_s: float
    token_times_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    bytes_sent: int = 0
    error_code: str = ""  # of the error that ended the request; empty where it was answered

    @property
    def answered(self) -> bool:
        """Tells whether the answer came to its end."""
        return not self.error_code and bool(self.token_times_s)

    @property
    def ttft_s(self) -> float:
        """Returns the time to the first token; meaningful only where a token came."""
        return self.token_times_s[0] - self.started_s if self.token_times_s else 0.0

    @property
    def itl_s(self) -> list[float]:
        """Returns inter-token latencies, one fewer than tokens."""
        return [later - earlier for earlier, later in pairwise(self.token_times_s)]

    @property
    def tpot_s(self) -> float:
        """Returns time per output token after the first; 0 for an answer of one token."""
        gaps = len(self.token_times_s) - 1
        return (self.token_times_s[-1] - self.token_times_s[0]) / gaps if gaps > 0 else 0.0

    @property
    def e2e_s(self) -> float:
        """Returns time from the request's start to its end."""
        return self.ended_s - self.started_s
