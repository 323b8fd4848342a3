"""Joules: each state counts once, a hedge ends with the first answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.domain import Plan
from splitvlm.planning.costs import CostLine
from splitvlm.planning.energy import EnergyModel

MODEL = EnergyModel(compute_w=6, transmit_w=4, wait_w=2, transmit_j_per_bit=1e-6)
REMOTE = CostLine(Plan.parse("tokens/int8"), 0.5, 0.1, 1_000, 0, 0, 0.3, 0.01, 1, 0, 0, 0.0)
ALONE = CostLine(Plan.parse("device"), 2.0, 0, 0, 0, 0, 0, 0.1, 0, 0, 0, 0.0)


def test_a_cloud_plan_computes_then_sends_then_waits():
    # 0.6 s of computing, 0.08 s of sending, 0.3 + 0.05 + 10 x 0.01 s of waiting
    expected_j = 6 * 0.6 + 4 * 0.08 + 2 * 0.45 + 8_000e-6
    assert MODEL.request_j(REMOTE, 100e3, 0.05, 10) == pytest.approx(expected_j)


def test_the_device_alone_computes_to_the_end():
    assert MODEL.request_j(ALONE, 1e6, 0.05, 10) == pytest.approx(6 * 3.0)


def test_a_hedge_that_the_cloud_wins_computes_until_then():
    joules = MODEL.request_j(REMOTE, 100e3, 0.05, 10, hedged_with=ALONE)
    assert joules == pytest.approx(6 * REMOTE.latency_s(100e3, 0.05, 10) + (4 - 2) * 0.08 + 8_000e-6)


@given(st.floats(1e3, 1e9), st.floats(0, 1), st.integers(0, 100))
def test_a_hedge_never_computes_longer_than_the_device_alone(uplink_bps, rtt_s, n_tokens):
    radio_j = (MODEL.transmit_w + uplink_bps * MODEL.transmit_j_per_bit) * 8_000 / uplink_bps
    hedged_j = MODEL.request_j(REMOTE, uplink_bps, rtt_s, n_tokens, hedged_with=ALONE)
    assert hedged_j <= MODEL.request_j(ALONE, uplink_bps, rtt_s, n_tokens) + radio_j + 1e-9
