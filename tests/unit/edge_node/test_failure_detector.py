"""How long a silent cloud node is waited for."""

from __future__ import annotations

from edge_node.cloud.failure_detector import (
    KEPT,
    LEAST_S,
    MOST_S,
    RECENT_S,
    SILENCE_FACTOR,
    UNKNOWN_S,
    FailureDetector,
)


def test_what_is_predicted_counts_where_nothing_was_seen() -> None:
    detector = FailureDetector()
    assert detector.limit_s(0.0, 0.0) == UNKNOWN_S
    assert detector.limit_s(0.01, 0.0) == LEAST_S
    assert detector.limit_s(5.0, 0.0) == SILENCE_FACTOR * 5.0
    assert detector.limit_s(1e6, 0.0) == MOST_S


def test_a_long_silence_is_forgotten_after_so_many_answers() -> None:
    detector = FailureDetector()
    detector.saw(3.0, 0.0)
    for _ in range(KEPT - 1):
        detector.saw(0.1, 1.0)
    assert detector.limit_s(0.0, 1.0) == SILENCE_FACTOR * 3.0
    detector.saw(0.1, 1.0)
    assert detector.limit_s(0.0, 1.0) == LEAST_S


def test_a_long_silence_is_forgotten_with_time_and_ordinary_ones_are_not() -> None:
    """A device that asks once an hour does not wait two minutes for a dead node because of one bad moment days ago."""
    detector = FailureDetector()
    for _ in range(3):
        detector.saw(2.0, 0.0)
    detector.saw(60.0, 1.0)
    assert detector.limit_s(0.0, 1.0) == MOST_S
    assert detector.limit_s(0.0, 1.0 + RECENT_S) == MOST_S
    assert detector.limit_s(0.0, 2.0 + RECENT_S) == SILENCE_FACTOR * 2.0
    assert detector.limit_s(0.0, 1e9) == SILENCE_FACTOR * 2.0, "not less than it has always taken"
    detector.saw(0.5, 1e9)
    assert detector.limit_s(0.0, 1e9) == SILENCE_FACTOR * 0.5
