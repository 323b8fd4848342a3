"""How long a silent cloud node is waited for."""

from __future__ import annotations

from edge_node.patience import LEAST_S, MOST_S, PATIENCE, UNKNOWN_S, Patience


def test_it_is_a_multiple_of_what_is_usual_within_bounds() -> None:
    patience = Patience()
    assert patience.limit_s(0.0) == UNKNOWN_S
    assert patience.limit_s(0.01) == LEAST_S
    assert patience.limit_s(5.0) == PATIENCE * 5.0
    assert patience.limit_s(1e6) == MOST_S


def test_the_longest_silence_counts_and_fades() -> None:
    patience = Patience()
    patience.saw(3.0)
    for _ in range(5):
        patience.saw(0.1)
    assert PATIENCE * 2.0 < patience.limit_s(0.0) < PATIENCE * 3.0
    for _ in range(500):
        patience.saw(0.1)
    assert patience.limit_s(0.0) == LEAST_S
