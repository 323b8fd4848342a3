"""Decides what comes next in one answer when whoever gives it fails. Pure: a state and an event in, the next state out.

    ON_DEVICE ──────────────────────────── failed ───────────────────────────▶ FAILED
    ON_CLOUD, HEDGED, TAKING_OVER ── failed ──▶ TAKING_OVER, ALONE or PAUSED, whichever is the first that can be;
                                                the last node takes over from itself, once, where its worker went;
                                                COMPLETE where all tokens are there; FAILED otherwise
    PAUSED ── failed ──▶ PAUSED, a few times
    any ── ended ──▶ COMPLETE

docs/adr/0010 has the whole picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from splitvlm.errors import Cancelled, CapacityError, ConfigError, PeerUnavailable, SplitvlmError, UsageError

PAUSES = 3  # times that a node without room is waited for, where nobody else can answer,
MOST_PAUSE_S = 10.0  # and for how long each time
_OWN_FAULT = (UsageError, ConfigError, Cancelled, CapacityError)  # where the device says so: no node could help


class Phase(StrEnum):
    """Says who works on an answer."""

    ON_DEVICE = "on device"  # the plan is the device's
    ON_CLOUD = "on cloud"  # one cloud node
    HEDGED = "hedged"  # one cloud node, and the device beside it
    TAKING_OVER = (
        "taking over"  # the next cloud node, or another worker of the last one, and the device beside it where it may
    )
    PAUSED = "paused"  # nobody for a moment; then the cloud node that had no room
    ALONE = "alone"  # the device finishes by itself
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class State:
    """Holds where one answer stands."""

    phase: Phase
    node: int = 0  # index of the cloud node that is asked, among those that the answer may use
    num_nodes: int = 0
    may_finish_alone: bool = False  # the device may finish, and has not been the last resort yet
    may_retry_node: bool = True  # the last node, whose worker went, was not asked for another one yet
    pauses_left: int = PAUSES
    pause_s: float = 0.0  # before the node is asked (PAUSED)

    @property
    def device_beside(self) -> bool:
        """Tells whether the device finishes the answer beside whoever takes over, or by itself."""
        return self.phase is Phase.ALONE or (self.phase is Phase.TAKING_OVER and self.may_finish_alone)


@dataclass(frozen=True, slots=True)
class Failed:
    """Says that all who worked on the answer failed, with the error of the plan's own side."""

    error: SplitvlmError
    complete: bool  # all tokens are there: only the end's message is missing
    may_leave: bool  # the privacy door lets the plan's bytes out still
    jitter: float = 1.0  # factor of a pause: devices that were refused together must not return together


@dataclass(frozen=True, slots=True)
class Ended:
    """Says that the answer ended in order."""


Event = Failed | Ended


def begun(*, on_device: bool, hedged: bool, num_nodes: int, may_finish_alone: bool) -> State:
    """Returns the state of an answer whose plan was chosen. A cloud's plan may lack a node: that fails when it is asked."""
    phase = Phase.ON_DEVICE if on_device else Phase.HEDGED if hedged else Phase.ON_CLOUD
    return State(phase, num_nodes=num_nodes, may_finish_alone=may_finish_alone)


def after(state: State, event: Event) -> State:
    """Returns what comes next."""
    if isinstance(event, Ended):
        return replace(state, phase=Phase.COMPLETE)
    if not event.may_leave:
        state = replace(state, num_nodes=min(state.num_nodes, state.node + 1))
    own_fault = isinstance(event.error, _OWN_FAULT) and not event.error.from_peer
    if own_fault or state.phase is Phase.ON_DEVICE or not state.num_nodes:
        return replace(state, phase=Phase.FAILED)
    if event.complete:
        return replace(state, phase=Phase.COMPLETE)
    if state.node + 1 < state.num_nodes:
        return replace(state, phase=Phase.TAKING_OVER, node=state.node + 1)
    if state.may_retry_node and event.may_leave and _worker_went(event.error):
        return replace(state, phase=Phase.TAKING_OVER, may_retry_node=False)
    if state.may_finish_alone:
        return replace(state, phase=Phase.ALONE, may_finish_alone=False)
    return _after_refusal(state, event)


def _worker_went(error: SplitvlmError) -> bool:
    """Returns whether the cloud node is there, and says itself that nobody answers behind it."""
    return isinstance(error, PeerUnavailable) and error.from_peer


def _after_refusal(state: State, event: Failed) -> State:
    """Returns whether the same node is asked again, which nobody can replace, after the time that it said."""
    error = event.error
    worth_waiting = isinstance(error, CapacityError) and 0 < error.retry_after_s <= MOST_PAUSE_S and state.pauses_left
    if not worth_waiting:
        return replace(state, phase=Phase.FAILED)
    assert isinstance(error, CapacityError)
    pause_s = error.retry_after_s * event.jitter
    return replace(state, phase=Phase.PAUSED, pauses_left=state.pauses_left - 1, pause_s=pause_s)
