"""A mean over the last seconds forgets with time, also where nothing new comes."""

from __future__ import annotations

import pytest

from cloud_node.engine.recent import RecentMean


def test_only_the_last_seconds_count() -> None:
    mean = RecentMean(5.0)
    assert mean.at(0.0) == 0.0
    mean.note(4.0, 0.0)
    mean.note(2.0, 3.0)
    assert mean.at(3.0) == mean.at(5.0) == 3.0
    assert mean.at(5.1) == 2.0
    assert mean.at(8.1) == 0.0
    mean.note(1.0, 100.0)
    assert mean.at(100.0) == 1.0


def test_what_it_keeps_is_bounded_by_the_window_and_rounding_does_not_add_up() -> None:
    mean = RecentMean(5.0)
    for number in range(10_000):
        mean.note(0.1 + number % 7, number / 100)
    assert len(mean._noted) <= 501
    assert mean.at(99.99) == pytest.approx(3.1, abs=0.05)
    assert mean.at(1e9) == 0.0
    assert mean._sum == 0.0
