"""The outlook is a distribution, believes the link's own manner, and takes an outage for a wait."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.link.estimator import LinkEstimator
from splitvlm.link.forecast import History

rates = st.floats(1e3, 1e11)


@given(
    st.lists(st.tuples(rates, st.floats(1, 1e6), st.floats(0, 100)), max_size=120),
    rates,
    st.floats(0, 2),
    st.floats(0, 1e4),
)
def test_weights_sum_to_one_and_all_is_finite(seen, level_bps, spread, age_s):
    history = History()
    now_s = 0.0
    for bps, payload_bytes, pause_s in seen:
        now_s += pause_s
        history.add(bps, payload_bytes, now_s, (level_bps, spread))
    points = history.forecast(level_bps, spread, age_s)
    assert sum(weight for weight, _, _ in points) == pytest.approx(1)
    for weight, bps, wait_s in points:
        assert weight >= 0
        assert 0 < bps < math.inf
        assert 0 <= wait_s < math.inf


def weight_near(estimator: LinkEstimator, bps: float, now_s: float) -> float:
    """How much of the outlook lies within a tenth of the rate."""
    return sum(weight for weight, rate, _ in estimator.estimate(now_s).forecast if abs(rate / bps - 1) < 0.1)


def send(estimator: LinkEstimator, bps: float, now_s: float) -> None:
    estimator.on_rtt(0.05, now_s)
    estimator.on_transfer(4_000, None, 0.05 + 32_000 / bps, 0.0, now_s)


def test_on_a_link_of_steps_it_believes_the_last_transfer():
    estimator = LinkEstimator()
    for second in range(200):
        send(estimator, 5e6 if second // 20 % 2 else 200e3, float(second))
    assert weight_near(estimator, 5e6, 200.0) > 0.8
    send(estimator, 200e3, 201.0)
    assert weight_near(estimator, 200e3, 201.0) > 0.5


def test_on_a_link_that_cannot_be_foretold_it_believes_the_usual_rates():
    estimator, rng = LinkEstimator(), random.Random(3)
    for second in range(0, 600, 3):
        send(estimator, math.exp(rng.uniform(math.log(200e3), math.log(5e6))), float(second))
    forecast = estimator.estimate(600.0).forecast
    spread = sorted(bps for weight, bps, _ in forecast if weight > 0.05)
    assert spread[-1] / spread[0] > 4


def test_an_outage_is_a_wait_before_the_usual_rate():
    estimator = LinkEstimator()
    for second in range(100):
        if second % 3 == 0:
            estimator.on_stall(1_000, 1.0, float(second))
        else:
            send(estimator, 2e6, float(second))
    waits = [(bps, wait_s) for weight, bps, wait_s in estimator.estimate(100.0).forecast if wait_s > 0]
    assert waits
    assert all(bps == pytest.approx(2e6, rel=0.1) for bps, _ in waits)
