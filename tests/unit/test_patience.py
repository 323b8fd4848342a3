"""How long a silent cloud node is waited for."""

from __future__ import annotations

from edge_node.patience import KEPT, LEAST_S, MOST_S, PATIENCE, RECENT_S, UNKNOWN_S, Patience


def test_what_is_predicted_counts_where_nothing_was_seen() -> None:
    patience = Patience()
    assert patience.limit_s(0.0, 0.0) == UNKNOWN_S
    assert patience.limit_s(0.01, 0.0) == LEAST_S
    assert patience.limit_s(5.0, 0.0) == PATIENCE * 5.0
    assert patience.limit_s(1e6, 0.0) == MOST_S


def test_a_long_silence_is_forgotten_after_so_many_answers() -> None:
    patience = Patience()
    patience.saw(3.0, 0.0)
    for _ in range(KEPT - 1):
        patience.saw(0.1, 1.0)
    assert patience.limit_s(0.0, 1.0) == PATIENCE * 3.0
    patience.saw(0.1, 1.0)
    assert patience.limit_s(0.0, 1.0) == LEAST_S


def test_a_long_silence_is_forgotten_with_time_and_ordinary_ones_are_not() -> None:
    """A device that asks once an hour does not wait two minutes for a dead node because of one bad moment days ago."""
    patience = Patience()
    for _ in range(3):
        patience.saw(2.0, 0.0)
    patience.saw(60.0, 1.0)
    assert patience.limit_s(0.0, 1.0) == MOST_S
    assert patience.limit_s(0.0, 1.0 + RECENT_S) == MOST_S
    assert patience.limit_s(0.0, 2.0 + RECENT_S) == PATIENCE * 2.0
    assert patience.limit_s(0.0, 1e9) == PATIENCE * 2.0, "not less than it has always taken"
    patience.saw(0.5, 1e9)
    assert patience.limit_s(0.0, 1e9) == PATIENCE * 0.5
