"""When a probe is worth its bytes: only where it can change the choice of plan, and within a share of the questions' bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.link.estimator import MAX_PROBE_BYTES, LinkEstimate, LinkEstimator
from splitvlm.link.probing import (
    CALL_BYTES,
    FIRST_CREDIT_BYTES,
    LOCAL_CREDIT_BYTES,
    MIN_PROBE_BYTES,
    MOST_UNREACHABLE_S,
    SHARE,
    SILENCE_S,
    ProbeSchedule,
    telling_bytes,
)
from splitvlm.link.small_transfers import TELLING_S

RTT_S = 0.04
rates = st.floats(1e3, 1e9)


def about(level_bps: float, low_bps: float, high_bps: float) -> LinkEstimate:
    forecast = ((0.25, low_bps, 0.0), (0.5, level_bps, 0.0), (0.25, high_bps, 0.0))
    return LinkEstimate(level_bps, RTT_S, 0.1, 0.0, 5, high_bps, forecast, level_bps, at_least=False)


def test_where_one_plan_is_best_over_the_whole_forecast_no_probe_is_worth_anything():
    link = about(1e6, 0.5e6, 2e6)
    assert telling_bytes(link, ()) == 0
    assert telling_bytes(link, (100e3, 0.4e6, 3e6)) == 0
    assert telling_bytes(link, (100e3, 0.6e6, 3e6)) > 0


@pytest.mark.parametrize(
    ("deciding_bps", "told_bps"),
    [((600e3,), 600e3), ((200e3, 600e3), 200e3), ((50e3, 600e3), 600e3), ((1.2e6, 600e3, 50e3), 600e3)],
)
def test_a_probe_takes_just_long_enough_at_the_next_rate_above_the_estimate(deciding_bps, told_bps):
    size = telling_bytes(about(100e3, 10e3, 5e6), deciding_bps)
    assert 8 * size / told_bps == pytest.approx(TELLING_S, rel=0.01)


def test_a_rate_that_is_known_as_a_lower_bound_only_may_be_any_above_it():
    assert telling_bytes(about(1e6, 0.5e6, 2e6), (5e6,)) == 0
    assert telling_bytes(about(1e6, 0.5e6, 2e6)._replace(at_least=True), (5e6,)) > 0
    assert telling_bytes(about(1e6, 0.5e6, 2e6)._replace(at_least=True), (500e6,)) == 0  # no probe could tell that


def test_where_all_deciding_rates_are_below_the_estimate_the_highest_is_told():
    assert telling_bytes(about(2e6, 50e3, 5e6), (300e3, 100e3)) == int(300e3 * TELLING_S / 8)


@given(st.lists(rates, max_size=6), rates, rates, rates)
def test_a_probe_is_never_large(deciding_bps, level_bps, low_bps, high_bps):
    size = telling_bytes(about(level_bps, low_bps, high_bps), deciding_bps)
    assert size == 0 or MIN_PROBE_BYTES <= size <= MAX_PROBE_BYTES


class Device:
    """A device whose questions of one size come at one pace, and what it spends on probes; looks twice a second."""

    def __init__(self, question_bytes: int, every_s: float, uplink_bps: float, deciding_bps: tuple[float, ...]) -> None:
        self.estimator, self.schedule = LinkEstimator(), ProbeSchedule()
        self.question_bytes, self.every_s = question_bytes, every_s
        self.uplink_bps, self.deciding_bps = uplink_bps, deciding_bps
        self.empty = self.sized = self.asked = 0
        self.now_s = 0.0
        self.estimator.on_rtt(RTT_S, 0.0)
        self.cross(1_200)

    def cross(self, size: int, *, probe: bool = False) -> None:
        took_s = RTT_S + 8 * size / self.uplink_bps
        self.estimator.on_transfer(size, None, took_s, 0.0, self.now_s, probe=probe)

    def look(self) -> None:
        if self.schedule.wait_s(self.now_s, self.estimator) > 0:
            return
        size = self.schedule.size(self.estimator.estimate(self.now_s), self.deciding_bps, self.now_s)
        if self.schedule.empty_wait_s(self.now_s, self.estimator) <= 0:
            self.estimator.on_rtt(RTT_S, self.now_s)
            self.cross(0)
            self.empty += CALL_BYTES
        if size:
            self.cross(size, probe=True)
            self.schedule.spent(size)
            self.sized += size + CALL_BYTES

    def run(self, questions: int, idle_s: float = 0.0) -> Device:
        next_s = self.now_s
        for number in range(questions + 1):
            next_s += self.every_s if number < questions else idle_s
            if number < questions:
                self.schedule.asked(self.now_s)
                if self.question_bytes:  # else the device answers alone
                    self.cross(self.question_bytes)
                    self.schedule.sent(self.question_bytes)
                self.asked += self.question_bytes
            while self.now_s < next_s:
                self.now_s += 0.5
                self.look()
        return self


@pytest.mark.parametrize("question_bytes", [100, 300, 800, 5_000])
@pytest.mark.parametrize("deciding_bps", [(), (300e3,), (30e3, 100e3, 1e6)])
def test_at_a_question_every_three_seconds_probes_stay_within_their_share(question_bytes, deciding_bps):
    device = Device(question_bytes, 3.0, 5e6, deciding_bps).run(1_000)
    assert device.sized <= SHARE * device.asked + FIRST_CREDIT_BYTES
    assert device.empty <= CALL_BYTES * device.now_s / 40
    if not deciding_bps:
        assert device.sized == 0


def test_an_idle_day_costs_next_to_nothing():
    device = Device(800, 3.0, 300e3, (200e3, 1e6)).run(20)
    before = device.empty + device.sized
    device.run(0, idle_s=86_400)
    assert device.empty + device.sized - before < 3_000
    device.run(3)
    assert device.estimator.heard_s is not None
    assert device.now_s - device.estimator.heard_s < SILENCE_S  # and then it measures as before


def test_a_device_that_was_never_asked_is_idle_too():
    device = Device(800, 3.0, 300e3, (200e3, 1e6)).run(0, idle_s=86_400)
    assert 0 < device.empty + device.sized < 3_000


def test_who_answers_alone_still_learns_that_the_link_is_back():
    device = Device(0, 3.0, 20e3, (500e3,))
    device.estimator.on_transfer(10_000, None, RTT_S + 4, 0.0, 0.0)
    device.run(100)
    before = device.sized
    assert before <= 100 * LOCAL_CREDIT_BYTES + FIRST_CREDIT_BYTES
    device.uplink_bps = 5e6
    device.run(30)
    assert device.sized > before
    assert device.estimator.estimate(device.now_s).uplink_bps > 500e3


def test_a_node_that_is_away_is_looked_for_at_once_and_then_each_minute():
    schedule = ProbeSchedule()
    schedule.asked(0.0)
    assert schedule.unreachable_wait_s(1.0, 0.5) <= 0
    assert 0 < schedule.unreachable_wait_s(100.0, 99.0) <= MOST_UNREACHABLE_S
    assert schedule.unreachable_wait_s(1e6, 1e6 - MOST_UNREACHABLE_S) <= 0


def test_a_silence_is_broken_by_an_empty_probe():
    device = Device(800, 3.0, 5e6, ()).run(10, idle_s=SILENCE_S + 1)
    assert device.sized == 0
    assert device.empty >= CALL_BYTES
    assert device.estimator.heard_s is not None
    assert device.now_s - device.estimator.heard_s <= SILENCE_S
