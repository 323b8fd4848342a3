"""What comes next when whoever gives an answer fails: states and events as plain values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.answering.failover import MOST_PAUSE_S, PAUSES, Ended, Failed, Phase, State, after, begun
from splitvlm.errors import (
    Cancelled,
    CapacityError,
    ConfigError,
    DeadlineExceeded,
    PeerUnavailable,
    ProtocolError,
    SplitvlmError,
    UsageError,
)

AWAY = PeerUnavailable("away")
RUNNING = (Phase.ON_CLOUD, Phase.HEDGED, Phase.TAKING_OVER, Phase.PAUSED)


def failed(
    error: SplitvlmError = AWAY, *, complete: bool = False, may_leave: bool = True, jitter: float = 1.0
) -> Failed:
    return Failed(error, complete, may_leave, jitter)


def full(retry_after_s: float) -> CapacityError:
    error = CapacityError("full", retry_after_s=retry_after_s)
    error.from_peer = True
    return error


def said_by_node(error: SplitvlmError) -> SplitvlmError:
    error.from_peer = True
    return error


@pytest.mark.parametrize(
    ("on_device", "hedged", "phase"),
    [
        (True, False, Phase.ON_DEVICE),
        (True, True, Phase.ON_DEVICE),
        (False, False, Phase.ON_CLOUD),
        (False, True, Phase.HEDGED),
    ],
)
def test_an_answer_begins_as_its_plan_says(on_device: bool, hedged: bool, phase: Phase) -> None:
    state = begun(on_device=on_device, hedged=hedged, num_nodes=2, may_finish_alone=True)
    assert state == State(phase, node=0, num_nodes=2, may_finish_alone=True)
    assert not state.device_beside
    assert after(state, Ended()).phase is Phase.COMPLETE


def test_standbys_come_one_after_another_with_the_device_beside_and_then_the_device_alone() -> None:
    state = State(Phase.HEDGED, num_nodes=3, may_finish_alone=True)
    seen = []
    for _ in range(4):
        state = after(state, failed(DeadlineExceeded("silent")))
        seen.append((state.phase, state.node, state.device_beside))
    assert seen == [
        (Phase.TAKING_OVER, 1, True),
        (Phase.TAKING_OVER, 2, True),
        (Phase.ALONE, 2, True),
        (Phase.FAILED, 2, False),
    ]


def test_without_a_device_that_may_finish_standbys_stand_alone() -> None:
    state = after(State(Phase.ON_CLOUD, num_nodes=2), failed())
    assert (state.phase, state.node, state.device_beside) == (Phase.TAKING_OVER, 1, False)
    assert after(state, failed()).phase is Phase.FAILED


@pytest.mark.parametrize("kind", [UsageError, ConfigError, Cancelled])
def test_what_the_device_itself_says_is_wrong_is_wrong_everywhere(kind: type[SplitvlmError]) -> None:
    state = State(Phase.ON_CLOUD, num_nodes=2, may_finish_alone=True)
    assert after(state, failed(kind("wrong"))).phase is Phase.FAILED
    assert after(state, failed(said_by_node(kind("wrong")))).phase is Phase.TAKING_OVER


def test_a_plan_of_the_device_and_one_without_a_node_have_nobody_else() -> None:
    assert after(State(Phase.ON_DEVICE, num_nodes=2, may_finish_alone=True), failed()).phase is Phase.FAILED
    assert after(State(Phase.ON_CLOUD, num_nodes=0, may_finish_alone=True), failed()).phase is Phase.FAILED


def test_where_all_tokens_are_there_nobody_is_asked_any_more() -> None:
    for phase in RUNNING:
        state = State(phase, num_nodes=2, may_finish_alone=True)
        assert after(state, failed(ProtocolError("endless"), complete=True)).phase is Phase.COMPLETE


def test_a_shut_privacy_door_leaves_the_device_only() -> None:
    state = State(Phase.ON_CLOUD, num_nodes=3, may_finish_alone=True)
    alone = after(state, failed(may_leave=False))
    assert (alone.phase, alone.num_nodes) == (Phase.ALONE, 1)
    assert after(replace(state, may_finish_alone=False), failed(may_leave=False)).phase is Phase.FAILED


def test_a_node_without_room_is_waited_for_a_few_times_where_nobody_else_can_answer() -> None:
    state = State(Phase.ON_CLOUD, num_nodes=1)
    for number in range(PAUSES):
        state = after(state, failed(full(0.5), jitter=1.25))
        assert (state.phase, state.node, state.pause_s) == (Phase.PAUSED, 0, 0.625)
        assert state.pauses_left == PAUSES - 1 - number
    assert after(state, failed(full(0.5))).phase is Phase.FAILED


@pytest.mark.parametrize("retry_after_s", [0.0, MOST_PAUSE_S + 0.1, 3600.0])
def test_a_node_that_names_no_time_or_too_long_a_time_is_not_waited_for(retry_after_s: float) -> None:
    assert after(State(Phase.ON_CLOUD, num_nodes=1), failed(full(retry_after_s))).phase is Phase.FAILED


def test_the_last_node_is_asked_once_more_where_it_says_that_its_worker_went() -> None:
    worker_went = failed(said_by_node(PeerUnavailable("no worker")))
    again = after(State(Phase.ON_CLOUD, num_nodes=1, may_finish_alone=True), worker_went)
    assert (again.phase, again.node, again.device_beside) == (Phase.TAKING_OVER, 0, True)
    assert after(again, worker_went).phase is Phase.ALONE
    assert after(State(Phase.ON_CLOUD, num_nodes=2), worker_went).node == 1, "another node comes first"
    without_device = after(State(Phase.ON_CLOUD, num_nodes=1), worker_went)
    assert without_device.phase is Phase.TAKING_OVER
    assert after(without_device, worker_went).phase is Phase.FAILED


def test_a_node_that_is_away_itself_or_may_get_nothing_is_not_asked_again() -> None:
    state = State(Phase.ON_CLOUD, num_nodes=1, may_finish_alone=True)
    assert after(state, failed(AWAY)).phase is Phase.ALONE
    shut = failed(said_by_node(PeerUnavailable("no worker")), may_leave=False)
    assert after(state, shut).phase is Phase.ALONE


def test_others_come_before_a_pause() -> None:
    assert after(State(Phase.ON_CLOUD, num_nodes=2), failed(full(0.5))).phase is Phase.TAKING_OVER
    assert after(State(Phase.ON_CLOUD, num_nodes=1, may_finish_alone=True), failed(full(0.5))).phase is Phase.ALONE


@given(
    num_nodes=st.integers(0, 5),
    may_finish_alone=st.booleans(),
    hedged=st.booleans(),
    on_device=st.booleans(),
    errors=st.lists(
        st.sampled_from(
            [AWAY, said_by_node(PeerUnavailable("gone")), full(0.1), UsageError("no"), ProtocolError("odd")]
        ),
        min_size=20,
    ),
    doors=st.lists(st.booleans(), min_size=20),
)
def test_every_row_of_faults_ends_and_each_node_is_asked_in_its_turn(
    num_nodes: int,
    may_finish_alone: bool,
    hedged: bool,
    on_device: bool,
    errors: list[SplitvlmError],
    doors: list[bool],
) -> None:
    state = begun(on_device=on_device, hedged=hedged, num_nodes=num_nodes, may_finish_alone=may_finish_alone)
    path = [state]
    for error, may_leave in zip(errors, doors, strict=False):
        state = after(state, failed(error, may_leave=may_leave))
        path.append(state)
        if state.phase is Phase.FAILED:
            break
    assert state.phase is Phase.FAILED
    assert len(path) <= 2 + num_nodes + 1 + PAUSES + 1
    nodes = [step.node for step in path]
    assert nodes == sorted(nodes)
    assert sum(step.phase is Phase.ALONE for step in path) <= may_finish_alone
