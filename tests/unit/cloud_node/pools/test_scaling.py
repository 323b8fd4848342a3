"""How many workers a pool has, by queue and time: plain numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloud_node.pools.scaling import (
    DRAIN_S,
    LONG_FOR_S,
    LONG_QUEUE_S,
    SHORT_FOR_S,
    SHORT_QUEUE_S,
    Scaling,
    ScalingDecision,
    WorkerLoad,
)

NOTHING = ScalingDecision()


def load(
    name: str,
    queue_s: float = 0.0,
    num_sessions: int = 1,
    draining_since_s: float | None = None,
    *,
    outdated: bool = False,
) -> WorkerLoad:
    return WorkerLoad(name, num_sessions, queue_s, draining_since_s, outdated)


def test_too_few_workers_are_started_at_once() -> None:
    scaling = Scaling(2, 4)
    assert scaling.decide([], 0, 0.0) == ScalingDecision(num_to_start=2)
    assert scaling.decide([], 2, 1.0) == NOTHING
    assert scaling.decide([load("a")], 0, 2.0) == ScalingDecision(num_to_start=1)


def test_a_queue_that_lasts_starts_one_more_and_a_burst_none() -> None:
    scaling, busy, idle = Scaling(1, 2), [load("a", LONG_QUEUE_S)], [load("a")]
    assert scaling.decide(busy, 0, 0.0) == NOTHING
    assert scaling.decide(idle, 0, 1.0) == NOTHING, "a burst"
    assert scaling.decide(busy, 0, 2.0) == NOTHING
    assert scaling.decide(busy, 0, 2.0 + LONG_FOR_S) == ScalingDecision(num_to_start=1)


def test_none_is_started_while_one_starts_or_the_pool_is_at_its_most() -> None:
    scaling, busy = Scaling(1, 2), [load("a", LONG_QUEUE_S)]
    for now_s in (0.0, LONG_FOR_S, 2 * LONG_FOR_S):
        assert scaling.decide(busy, 1, now_s) == NOTHING
    full = [load("a", 9.0), load("b", 9.0)]
    for now_s in (0.0, LONG_FOR_S, 2 * LONG_FOR_S):
        assert scaling.decide(full, 0, now_s) == NOTHING


def test_an_empty_queue_that_lasts_lets_the_worker_with_the_fewest_sessions_go() -> None:
    scaling, idle = Scaling(1, 3), [load("a", num_sessions=5), load("b", num_sessions=2)]
    assert scaling.decide(idle, 0, 0.0) == NOTHING
    assert scaling.decide(idle, 0, SHORT_FOR_S - 1) == NOTHING
    assert scaling.decide(idle, 0, SHORT_FOR_S) == ScalingDecision(drain=("b",))
    going = [idle[0], load("b", num_sessions=2, draining_since_s=SHORT_FOR_S)]
    assert scaling.decide(going, 0, 2 * SHORT_FOR_S - 1) == NOTHING, "the least number stays"


def test_work_in_between_starts_the_time_anew() -> None:
    scaling = Scaling(1, 3)
    idle, worked = [load("a"), load("b")], [load("a", 3 * SHORT_QUEUE_S), load("b")]
    scaling.decide(idle, 0, 0.0)
    scaling.decide(worked, 0, SHORT_FOR_S / 2)
    assert scaling.decide(idle, 0, SHORT_FOR_S) == NOTHING
    assert scaling.decide(idle, 0, 2 * SHORT_FOR_S) == ScalingDecision(drain=("a",))


def test_a_worker_that_drains_is_ended_with_its_last_session_or_after_too_long() -> None:
    scaling = Scaling(1, 3)
    other = load("a", 2 * SHORT_QUEUE_S)
    assert scaling.decide([other, load("b", num_sessions=1, draining_since_s=0.0)], 0, DRAIN_S - 1) == NOTHING
    assert scaling.decide([other, load("b", num_sessions=0, draining_since_s=0.0)], 0, 1.0) == ScalingDecision(
        end=("b",)
    )
    assert scaling.decide([other, load("b", num_sessions=9, draining_since_s=0.0)], 0, DRAIN_S) == ScalingDecision(
        end=("b",)
    )


def test_a_worker_that_drains_counts_neither_as_one_that_serves_nor_in_the_queue() -> None:
    scaling = Scaling(1, 2)
    draining = load("b", 100.0, draining_since_s=0.0)
    for now_s in (0.0, LONG_FOR_S, 2 * LONG_FOR_S):
        assert scaling.decide([load("a", 2 * SHORT_QUEUE_S), draining], 0, now_s) == NOTHING
    assert scaling.decide([draining], 0, 10.0) == ScalingDecision(num_to_start=1)


def test_more_workers_than_the_most_that_holds_now_are_drained_at_once() -> None:
    scaling = Scaling(2, 2)
    scaling.use(1, 1)
    assert scaling.decide([load("a", 9.0), load("b", 9.0, num_sessions=0)], 0, 0.0) == ScalingDecision(drain=("b",))
    assert scaling.decide([load("a", 9.0)], 0, 1.0) == NOTHING


@pytest.mark.parametrize(("least", "most", "count"), [(1, 1, 1), (1, 3, 1), (1, 3, 3), (2, 2, 2), (2, 4, 3), (4, 4, 4)])
def test_a_rollout_replaces_every_worker_and_never_leaves_fewer_than_before_or_none(
    least: int, most: int, count: int
) -> None:
    scaling, now_s, names = Scaling(least, most), 0.0, iter(range(100))
    pool = {f"old-{number}": load(f"old-{number}", outdated=True) for number in range(count)}
    while any(worker.outdated for worker in pool.values()):
        decision = scaling.decide(list(pool.values()), 0, now_s)
        for name in decision.drain:
            pool[name] = replace(pool[name], draining_since_s=now_s)
        serving = [worker for worker in pool.values() if worker.draining_since_s is None]
        assert len(serving) >= max(1, count - 1)
        assert len(serving) + decision.num_to_start <= max(most, 2)
        assert (
            scaling.decide(list(pool.values()), decision.num_to_start, now_s).drain == () or not decision.num_to_start
        )
        for name in decision.end:
            del pool[name]
        for _ in range(decision.num_to_start):
            name = f"new-{next(names)}"
            pool[name] = load(name)
        now_s += DRAIN_S
        assert now_s < 20 * DRAIN_S, "the rollout ends"
    assert len(pool) >= count


def test_a_replacement_that_does_not_start_keeps_the_rollout_from_going_on() -> None:
    scaling, now_s = Scaling(2, 2), 0.0
    first = scaling.decide([load("a", outdated=True), load("b", outdated=True)], 0, now_s)
    assert first == ScalingDecision(num_to_start=1, drain=("a",))
    left = [load("b", outdated=True)]
    for now_s in (1.0, 2.0, 3.0):
        assert scaling.decide(left, 1, now_s) == NOTHING
        assert scaling.decide(left, 0, now_s) == ScalingDecision(num_to_start=1), "it has ended before it served"
