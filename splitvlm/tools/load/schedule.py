"""Decides when simulated devices ask, and how long their answers may become. Pure: a seed in, plain numbers out.

The two kinds of load are those of `vllm bench serve`: a *closed loop* keeps a fixed number of requests under way, each device
asking again when its answer has ended; an *open loop* asks by the clock, as a Poisson process, even if the node lags behind.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from splitvlm.errors import UsageError


@dataclass(frozen=True, slots=True)
class AnswerLengths:
    """Gives the longest answers, in tokens, drawn evenly from `least` to `most`; equal bounds give one fixed length."""

    least: int
    most: int

    @classmethod
    def parse(cls, text: str) -> AnswerLengths:
        """Reads `64`, or `32:128`. Raises UsageError."""
        first, _, last = text.partition(":")
        try:
            lengths = cls(int(first), int(last or first))
        except ValueError:
            lengths = cls(0, 0)
        if not 1 <= lengths.least <= lengths.most <= 4_096:
            raise UsageError(
                f"'{text[:40]}' does not say how long answers may be.",
                advice="Give a number of tokens such as 64, or the bounds of a draw such as 32:128, from 1 to 4096.",
            )
        return lengths

    def draw(self, count: int, seed: int) -> list[int]:
        """Returns `count` lengths; the same seed gives the same ones."""
        source = random.Random(f"lengths {seed}")
        return [source.randint(self.least, self.most) for _ in range(count)]


def poisson_arrivals_s(requests_per_s: float, count: int, seed: int) -> list[float]:
    """Returns `count` times in seconds, from 0 on, whose gaps are exponential with mean 1 / `requests_per_s`."""
    source = random.Random(f"arrivals {seed}")
    return list(_sums(source, requests_per_s, count))


def _sums(source: random.Random, requests_per_s: float, count: int) -> Iterator[float]:
    at_s = 0.0
    for _ in range(count):
        yield at_s
        at_s += source.expovariate(requests_per_s)
