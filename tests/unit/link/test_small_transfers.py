"""The bounds that small transfers tell hold the rate, and are as near to each other as jitter lets them be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.link.small_transfers import FELL_S, TELLING_S, SmallTransfers


@given(st.floats(15e3, 2e6), st.lists(st.integers(100, 900), min_size=1, max_size=30), st.floats(0, 0.005))
def test_a_steady_rate_lies_within_the_bounds_whatever_the_ends_take(bps, sizes, work_s):
    small = SmallTransfers()
    for second, num_bytes in enumerate(sizes):
        bounds = small.add(num_bytes, 8 * num_bytes / bps + work_s, bps, float(second))
        assert bounds.lower_bps <= bps * (1 + 1e-9)
        assert bounds.upper_bps >= bps * (TELLING_S - work_s) / TELLING_S * (1 - 1e-9)


def test_a_fall_that_takes_a_quarter_of_a_scheduler_s_slice_is_told_by_two_transfers():
    small = SmallTransfers()
    for second in range(8):
        assert small.add(300, 8 * 300 / 800e3, 800e3, float(second)).upper_bps > 2e6
    assert small.add(300, 8 * 300 / 200e3, 800e3, 8.0).upper_bps > 2e6
    bounds = small.add(300, 8 * 300 / 200e3, 800e3, 9.0)
    assert bounds.lower_bps <= 200e3 <= bounds.upper_bps
    assert bounds.middle_bps == pytest.approx(200e3, rel=0.3)


def test_what_takes_long_is_exact_unless_it_fell_too_far_at_once():
    small = SmallTransfers()
    small.add(300, TELLING_S, 120e3, 0.0)
    assert small.add(300, 2 * TELLING_S, 120e3, 1.0)[:2] == (60e3, 60e3)
    doubted = small.add(30, 2.2 * TELLING_S, 60e3, 1.5)  # 5.5 kbit/s
    assert doubted.upper_bps == 60e3
    assert doubted.own_upper_bps == doubted.lower_bps == pytest.approx(8 * 30 / (2.2 * TELLING_S))
    assert small.add(30, 2.2 * TELLING_S, 60e3, 2.0).upper_bps == doubted.lower_bps
    assert small.add(30, 2 * FELL_S, 60e3, 2.1).upper_bps == pytest.approx(8 * 30 / (2 * FELL_S))
