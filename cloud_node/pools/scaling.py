"""Decides how many workers a pool should have, and which of them should go. Pure: the time is an argument.

A queue that lasts asks for another worker; a queue that stays empty for long lets the worker with the fewest sessions go. A
worker that goes is drained first: it takes no new session, and is ended when its last one is, or when it has taken too long.
Workers with settings of before are replaced one at a time, each by one with those of now, and never the last that serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

LONG_QUEUE_S = 0.5  # that work waits on average: about as long as a person notices,
LONG_FOR_S = 3.0  # and for how long it has to last: loading a model takes longer than a burst does
SHORT_QUEUE_S = 0.05
SHORT_FOR_S = 60.0  # well above the time that a worker takes to load: no coming and going
DRAIN_S = 60.0  # that a worker which goes may take to end its sessions


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """Holds what is known of one worker."""

    name: str
    num_sessions: int
    queue_s: float  # that its work of the last seconds waited
    draining_since_s: float | None = None  # None while it takes new sessions
    outdated: bool = False  # whether it runs with settings of before


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """Says what to do now."""

    num_to_start: int = 0
    drain: tuple[str, ...] = ()
    end: tuple[str, ...] = ()


class Scaling:
    """Decides from the loads of all workers, each second or so. `least` and `most` bound those that take sessions."""

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most
        self._long_since_s: float | None = None
        self._short_since_s: float | None = None

    def use(self, least: int, most: int) -> None:
        """Takes other bounds, from the next decision on."""
        self._least, self._most = least, most

    def decide(self, loads: Sequence[WorkerLoad], num_starting: int, now_s: float) -> ScalingDecision:
        """Returns what to start, drain and end; `num_starting` workers are on their way and not in `loads`."""
        serving = [load for load in loads if load.draining_since_s is None]
        ended = tuple(load.name for load in loads if _is_drained(load, now_s))
        total = len(serving) + num_starting
        if total < self._least:
            return ScalingDecision(num_to_start=self._least - total, end=ended)
        if outdated := [load for load in serving if load.outdated]:
            return replace(self._next_of_rollout(serving, outdated, num_starting), end=ended)
        if len(serving) > self._most:
            return ScalingDecision(drain=(_idlest(serving),), end=ended)
        mean_s = sum(load.queue_s for load in serving) / max(1, len(serving))
        if self._lasts_long(mean_s, now_s) and not num_starting and total < self._most:
            self._long_since_s = None
            return ScalingDecision(num_to_start=1, end=ended)
        if self._lasts_short(mean_s, now_s) and not num_starting and total > self._least:
            self._short_since_s = None
            return ScalingDecision(drain=(_idlest(serving),), end=ended)
        return ScalingDecision(end=ended)

    def _next_of_rollout(
        self, serving: Sequence[WorkerLoad], outdated: Sequence[WorkerLoad], num_starting: int
    ) -> ScalingDecision:
        """Waits for the replacement that is on its way, also where settings that do not work keep it from starting."""
        if num_starting:
            return ScalingDecision()
        if len(serving) == 1:
            return ScalingDecision(num_to_start=1)
        return ScalingDecision(num_to_start=int(len(serving) <= self._most), drain=(_idlest(outdated),))

    def _lasts_long(self, mean_s: float, now_s: float) -> bool:
        if mean_s < LONG_QUEUE_S:
            self._long_since_s = None
            return False
        self._long_since_s = now_s if self._long_since_s is None else self._long_since_s
        return now_s - self._long_since_s >= LONG_FOR_S

    def _lasts_short(self, mean_s: float, now_s: float) -> bool:
        if mean_s > SHORT_QUEUE_S:
            self._short_since_s = None
            return False
        self._short_since_s = now_s if self._short_since_s is None else self._short_since_s
        return now_s - self._short_since_s >= SHORT_FOR_S


def _idlest(loads: Sequence[WorkerLoad]) -> str:
    """Returns the name of the worker with the fewest sessions."""
    return min(loads, key=lambda load: (load.num_sessions, load.name)).name


def _is_drained(load: WorkerLoad, now_s: float) -> bool:
    return load.draining_since_s is not None and (not load.num_sessions or now_s - load.draining_since_s >= DRAIN_S)
