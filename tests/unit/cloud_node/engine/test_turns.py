"""Owners take turns, and how long a queue is for whom follows from that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_node.engine.turns import Turns


def taken(turns: Turns[str]) -> list[str]:
    jobs = []
    while turns:
        jobs.append(turns.take())
    return jobs


def test_each_owner_gets_every_nth_job_however_many_it_has() -> None:
    turns = Turns[str]()
    for job in ("a1", "a2", "a3", "b1", "b2", "c1"):
        turns.add(job[0], job)
    assert taken(turns) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_comes_later_is_behind_those_that_wait_and_not_behind_all_their_jobs() -> None:
    turns = Turns[str]()
    for job in ("a1", "a2", "a3"):
        turns.add("a", job)
    assert turns.take() == "a1"
    turns.add("b", "b1")
    assert taken(turns) == ["a2", "b1", "a3"]


def test_nothing_is_taken_of_nothing() -> None:
    turns = Turns[str]()
    turns.add("a", "a1")
    turns.clear()
    assert not turns
    with pytest.raises(KeyError):
        turns.take()


def test_the_queue_of_a_new_owner_is_one_job_of_each_other() -> None:
    turns = Turns[str]()
    for job in ("a1", "a2", "a3", "b1"):
        turns.add(job[0], job)
    assert [turns.num_ahead(owner) for owner in ("new", "a", "b")] == [2, 4, 3]  # of a twice before b's 2nd


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.sampled_from("abcde"))
def test_as_many_jobs_are_ahead_as_then_run_before(owners: list[str], owner: str) -> None:
    turns = Turns[int]()
    for number, name in enumerate(owners):
        turns.add(name, number)
    ahead = turns.num_ahead(owner)
    turns.add(owner, -1)
    order = []
    while turns:
        order.append(turns.take())
    assert sorted(order) == [-1, *range(len(owners))]
    assert order.index(-1) == ahead
