"""Which worker of a Ray pool gets a session, and what a rollout that fails leaves: members without processes."""

from __future__ import annotations

from typing import Any

import pytest

from cloud_node.pools.member import Member, what_runs
from cloud_node.pools.ray import RayPool
from cloud_node.settings import CloudSettings, PoolChoice, Workers
from splitvlm.errors import CapacityError, ConfigError
from splitvlm.settings import ModelChoice


class Remote:
    """Stands for the way to a worker that listens."""

    def __init__(self, num_sessions: int) -> None:
        self.num_sessions = num_sessions


class Ray:
    """Stands for the module `ray`, connected to a cluster of one machine."""

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


def pool_of(*members: tuple[str, float, int]) -> RayPool:
    """Returns a pool of workers by name, queue (s) and sessions."""
    pool = RayPool(CloudSettings(), None, object)
    pool._ray = Ray()
    for name, queue_s, num_sessions in members:
        remote: Any = Remote(num_sessions)
        pool._members[name] = Member(name, None, what_runs(CloudSettings()), remote, queue_s=queue_s)
    return pool


def chosen(pool: RayPool, device: str) -> str:
    pool.worker_for(device)
    return pool.last_worker[device]


def test_a_new_device_goes_where_the_expected_wait_is_least_then_where_sessions_are_fewest() -> None:
    assert chosen(pool_of(("a", 0.2, 0), ("b", 0.1, 9)), "edge-1") == "b"
    assert chosen(pool_of(("a", 0.0, 3), ("b", 0.0, 1)), "edge-1") == "b"


def test_a_device_comes_back_to_the_worker_that_has_its_prefixes_while_that_serves() -> None:
    pool = pool_of(("a", 0.0, 0), ("b", 0.5, 5))
    pool.last_worker["edge-1"] = "b"
    assert chosen(pool, "edge-1") == "b"
    pool._members["b"].draining_since_s = 1.0
    assert chosen(pool, "edge-1") == "a"


def test_a_pool_without_a_worker_that_serves_says_when_to_ask_again() -> None:
    pool = pool_of(("a", 0.0, 0))
    pool._members["a"].remote = None
    with pytest.raises(CapacityError) as refused:
        pool.worker_for("edge-1")
    assert refused.value.retry_after_s > 0


def test_a_rollout_whose_first_worker_ends_before_it_serves_is_taken_back() -> None:
    pool, other = pool_of(("a", 0.0, 0)), CloudSettings(model=ModelChoice(name="shape:smolvlm-256m"))
    pool.roll_out(other)
    assert pool._is_outdated(pool._members["a"])
    pool._take_back(Member("b", None, what_runs(other)))
    assert not pool._is_outdated(pool._members["a"])


def test_a_worker_that_ends_after_the_rollout_has_shown_that_it_works_takes_nothing_back() -> None:
    pool, other = pool_of(("a", 0.0, 0)), CloudSettings(model=ModelChoice(threads=1))
    pool.roll_out(other)
    pool._before = None
    pool._take_back(Member("b", None, what_runs(other)))
    assert pool._is_outdated(pool._members["a"])


def test_more_workers_than_the_machine_has_room_for_are_refused_and_the_pool_stays_as_it_was() -> None:
    pool = pool_of(("a", 0.0, 0))
    with pytest.raises(ConfigError, match="CPU"):
        pool.roll_out(CloudSettings(pool=PoolChoice(kind="ray", workers=Workers(min=1, max=3))))
    assert not pool._is_outdated(pool._members["a"])


def test_what_a_second_rollout_is_taken_back_to_has_served_before() -> None:
    pool = pool_of(("a", 0.0, 0))
    for name in ("shape:smolvlm-256m", "shape:smolvlm-500m"):
        pool.roll_out(last := CloudSettings(model=ModelChoice(name=name)))
    pool._take_back(Member("b", None, what_runs(last)))
    assert not pool._is_outdated(pool._members["a"])
