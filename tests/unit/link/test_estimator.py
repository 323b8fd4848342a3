"""The estimator's laws, on plain numbers: three times kept apart, robust, quick to follow, and never stuck low."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.link.estimator import RTT_WINDOW_S, LinkEstimate, LinkEstimator
from splitvlm.link.small_transfers import FELL_S

RTT_S = 0.04
rates = st.floats(20e3, 200e6)


def send(estimator: LinkEstimator, payload_bytes: int, bps: float, now_s: float, *, server_s: float = 0.0) -> None:
    """A transfer in many frames over an ideal link of this rate."""
    span_s = 8 * payload_bytes / bps
    estimator.on_transfer(payload_bytes, span_s, span_s + RTT_S + server_s, server_s, now_s, first_frame_bytes=0)


def settled(bps: float, *, until_s: float = 10.0) -> LinkEstimator:
    estimator = LinkEstimator(prior_uplink_bps=1e6)
    estimator.on_rtt(RTT_S, 0)
    for step in range(11):
        send(estimator, 40_000, bps, until_s * step / 10)
    return estimator


@given(rates)
def test_a_steady_link_is_estimated_as_it_is(bps):
    estimate = settled(bps).estimate(10)
    if 8 * 40_000 / bps > 0.004:
        assert estimate.uplink_bps == pytest.approx(bps, rel=1e-6)
    assert estimate.rtt_s == pytest.approx(RTT_S)


@given(rates, st.floats(0, 30))
def test_the_server_s_time_does_not_change_the_rate(bps, server_s):
    idle, busy = LinkEstimator(), LinkEstimator()
    for estimator in (idle, busy):
        estimator.on_rtt(RTT_S, 0)
    send(idle, 20_000, bps, 1)
    send(busy, 20_000, bps, 1, server_s=server_s)
    assert busy.estimate(1).uplink_bps == pytest.approx(idle.estimate(1).uplink_bps, rel=1e-6)


def test_a_single_frame_tells_the_rate_only_beyond_the_round_trip():
    estimator = LinkEstimator(prior_uplink_bps=1e6)
    estimator.on_rtt(RTT_S, 0)
    estimator.on_transfer(8_000, None, 0.64 + RTT_S + 0.3, 0.3, 1)
    assert estimator.estimate(1).uplink_bps == pytest.approx(100e3, rel=1e-6)  # not 8 * 8000 / 0.98


def test_a_tiny_transfer_is_only_a_lower_bound():
    estimator = settled(5e6)
    estimator.on_transfer(200, None, RTT_S + 0.001, 0, 10)  # at least 0.8 Mbit/s: known
    assert estimator.estimate(10) == settled(5e6).estimate(10)._replace(at_least=True)


def test_transfers_that_are_too_quick_to_be_told_count_among_the_usual_ones():
    """A fast link with rare dips: without its quick transfers the dips alone would be what is usual."""
    estimator = LinkEstimator(prior_uplink_bps=1e6)
    estimator.on_rtt(RTT_S, 0)
    for second in range(200):
        bps = 200e3 if second % 40 == 39 else 50e6
        estimator.on_transfer(2_000, None, RTT_S + 8 * 2_000 / bps, 0, float(second))
    assert estimator.estimate(198.0).tail_bps > 2e6


def test_a_large_transfer_outweighs_a_small_one():
    estimator = settled(1e6)
    send(estimator, 100, 1e5, 10)  # one sample for a small request
    assert estimator.estimate(10).uplink_bps > 0.9e6
    send(estimator, 40_000, 1e5, 10)
    assert estimator.estimate(10).uplink_bps < 0.5e6


def test_bytes_that_came_before_the_span_are_not_of_it():
    estimator = LinkEstimator()
    estimator.on_transfer(20_000, 0.8, 2, 0, 1, first_frame_bytes=10_000)
    assert estimator.estimate(1).uplink_bps == pytest.approx(100e3)


def test_a_span_without_its_first_frame_s_size_is_not_taken_for_the_transfer():
    estimator = LinkEstimator()
    estimator.on_rtt(RTT_S, 0)
    estimator.on_transfer(20_000, 0.32, 1.6 + RTT_S, 0, 1)  # frames of 16 and 4 kB: the span holds the second only
    assert estimator.estimate(1).uplink_bps == pytest.approx(100e3)


def test_the_round_trip_is_the_least_of_the_window():
    estimator = LinkEstimator()
    for now_s, rtt_s in [(0, 0.05), (1, 0.03), (2, 0.08), (3, 0.06)]:
        estimator.on_rtt(rtt_s, now_s)
    assert estimator.estimate(3).rtt_s == 0.03
    assert estimator.estimate(1.5 + RTT_WINDOW_S).rtt_s == 0.06  # also without a newer one: a minimum has an age
    assert estimator.estimate(4 * RTT_WINDOW_S).rtt_s == 0.06  # the last one stands until there is another
    estimator.on_rtt(0.09, 5 * RTT_WINDOW_S)
    assert estimator.estimate(5 * RTT_WINDOW_S).rtt_s == 0.09


def test_a_transfer_that_took_less_than_the_round_trip_shows_that_it_was_held_up():
    """The first calls of a connection met a queue: 270 ms. The next transfers tell a rate all the same."""
    estimator = LinkEstimator()
    estimator.on_rtt(0.27, 0)
    estimator.on_transfer(150, None, RTT_S, 0, 1)
    assert estimator.estimate(1).rtt_s == RTT_S
    estimator.on_transfer(1_000, None, RTT_S + 0.1, 0, 2)
    estimator.on_transfer(1_000, None, RTT_S + 0.1, 0, 3)
    assert estimator.estimate(3).uplink_bps == pytest.approx(80e3, rel=0.01)


@pytest.mark.parametrize("payload_bytes", [1_000, 4_000, 14_000])
def test_one_transfer_that_takes_much_longer_than_predicted_is_evidence_at_once(payload_bytes):
    estimator = settled(2e6)
    estimator.on_transfer(payload_bytes, None, RTT_S + 8 * payload_bytes / 60e3, 0, 11)
    assert estimator.estimate(11).uplink_bps == pytest.approx(60e3, rel=0.01)


def test_a_small_transfer_over_a_slow_link_weighs_what_it_watched_of_it():
    """On the way down, in no step: pictures first, then features of 600 bytes."""
    estimator = settled(60e3)
    for now_s in (11, 12, 13):
        estimator.on_transfer(600, None, RTT_S + 8 * 600 / 35e3, 0, now_s)
    assert estimator.estimate(13).uplink_bps < 45e3


@pytest.mark.parametrize(("before", "after"), [(5e6, 100e3), (100e3, 5e6)])
def test_two_transfers_after_a_step_know_the_new_link(before, after):
    estimator = settled(before)
    send(estimator, 20_000, after, 11)
    send(estimator, 20_000, after, 12)
    assert estimator.estimate(12).uplink_bps == pytest.approx(after, rel=0.25)


@given(rates, rates, st.floats(0, 1000), st.floats(0, 1000))
def test_without_news_the_slow_end_never_falls(first, second, wait_s, more_s):
    estimator = settled(first)
    send(estimator, 20_000, second, 10)
    ages = [estimator.estimate(10 + age_s).pessimistic().uplink_bps for age_s in (wait_s, wait_s + more_s)]
    assert ages[0] <= ages[1] * (1 + 1e-9)


def test_a_fallen_estimate_returns_to_what_the_link_could_do():
    estimator = settled(8e6)
    for now_s in range(11, 20):
        send(estimator, 5_000, 50e3, now_s)
    assert estimator.estimate(20).uplink_bps < 60e3
    assert estimator.estimate(120).uplink_bps == pytest.approx(8e6, rel=0.01)


@given(rates, st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_bytes_take_longer(bps, few, many):
    estimate = settled(bps).estimate(10)
    assert (estimate.transfer_s(few) <= estimate.transfer_s(many)) == (few <= many)


@given(st.lists(st.tuples(rates, st.integers(1, 10**6), st.floats(0, 10)), max_size=30))
def test_whatever_was_seen_the_estimate_is_a_number(seen):
    estimator = LinkEstimator()
    for now_s, (bps, payload_bytes, server_s) in enumerate(seen):
        send(estimator, payload_bytes, bps, now_s, server_s=server_s)
    estimate = estimator.estimate(len(seen))
    assert 0 < estimate.pessimistic().uplink_bps <= estimate.uplink_bps < math.inf
    assert 0 <= estimate.spread <= 2


def test_the_spread_is_the_worst_recent_error():
    steady, erratic = settled(1e6), settled(1e6)
    send(erratic, 40_000, 0.6e6, 10)
    assert steady.estimate(10).spread < 0.2
    assert erratic.estimate(10).spread == pytest.approx(1 / 0.6 - 1, rel=0.01)


def test_nothing_measured_is_the_prior_with_a_wide_spread():
    assert LinkEstimator(prior_uplink_bps=2e6, prior_rtt_s=0.1).estimate(5) == LinkEstimate(
        2e6, 0.1, 0.5, math.inf, 0, peak_bps=2e6
    )


@pytest.mark.parametrize("jitter_s", [0.0005, 0.001, 0.002])
def test_questions_within_a_scheduler_s_jitter_hardly_pull_the_rate_down(jitter_s):
    chance = random.Random(1)
    estimator, below, now_s = settled(1e6), 0, 10.0
    for _ in range(500):
        num_bytes = chance.choice((200, 280, 350, 430))
        now_s += 1
        estimator.on_transfer(num_bytes, None, RTT_S + num_bytes * 8e-6 + chance.expovariate(1 / jitter_s), 0, now_s)
        below += estimator.estimate(now_s).uplink_bps < 0.5e6
    assert below <= 25


@given(st.floats(0.003, 0.99 * FELL_S))
def test_one_late_question_pulls_no_rate_down(late_s):
    estimator = settled(1e6)
    for number, seconds in enumerate((0.001, 0.001, 0.001, late_s)):
        estimator.on_transfer(100, None, RTT_S + seconds, 0, 10 + 0.25 * number)
    assert estimator.estimate(10.75).uplink_bps >= 0.999e6
    assert estimator.told_s == 10
    assert estimator.heard_s == 10.75


def test_the_rate_of_a_steady_link_stays_while_small_questions_take_what_it_says():
    """No prior is nearer the truth than what crosses now: 250 bytes at 300 kbit/s take 7 ms."""
    estimator = LinkEstimator()
    estimator.on_rtt(RTT_S, 0)
    estimator.on_transfer(2_400, None, RTT_S + 8 * 2_400 / 300e3, 0, 0)
    for second in range(1, 120):
        estimator.on_transfer(250, None, RTT_S + 8 * 250 / 300e3, 0, second)
        assert 200e3 < estimator.estimate(second + 0.9).uplink_bps < 450e3


@pytest.mark.parametrize("bps", [15e3, 100e3, 1e6])
def test_the_bytes_of_an_empty_call_are_no_distance(bps):
    """At 15 kbit/s the 70 bytes around a call take as long as the way to the node and back."""
    estimator, around = LinkEstimator(), 70
    estimator.on_rtt(RTT_S + 8 * around / bps, 0, num_bytes=around)
    estimator.on_transfer(2_400, None, RTT_S + 8 * 2_400 / bps, 0, 1)
    assert estimator.estimate(1).rtt_s == pytest.approx(RTT_S, rel=1e-3)
    for second in range(2, 300):
        num_bytes = around + 50 * (second % 5 + 1)
        estimator.on_transfer(num_bytes, None, RTT_S + 8 * num_bytes / bps, 0, second)
        if second % 45 == 0:
            estimator.on_rtt(RTT_S + 8 * around / bps, second, num_bytes=around)
        assert estimator.estimate(second).rtt_s == pytest.approx(RTT_S, rel=0.01)
        assert estimator.estimate(second).uplink_bps == pytest.approx(bps, rel=0.5)


def test_a_transfer_that_was_quicker_than_the_round_trip_proves_no_rate():
    """The calls before it met a queue: 2.4 kB in no time would be 10 Mbit/s."""
    estimator = LinkEstimator()
    estimator.on_rtt(0.06, 0)
    estimator.on_transfer(2_400, None, 0.055, 0, 1)
    assert estimator.estimate(1).samples == 0
    assert estimator.estimate(1).rtt_s == 0.055


def test_questions_that_take_long_are_read_and_tell():
    estimator = settled(1e6)
    for number in range(40):
        estimator.on_transfer(100, None, RTT_S + 0.04, 0, 10 + 0.25 * number)
    assert estimator.estimate(20).uplink_bps == pytest.approx(20e3, rel=0.01)
    assert estimator.told_s == estimator.heard_s == 19.75


numbers = st.floats(-10, 1e4) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
clock = st.floats(-1e5, 1e5)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("rtt"), numbers, clock),
            st.tuples(st.just("transfer"), st.integers(-5, 100_000), st.none() | numbers, numbers, numbers, clock),
            st.tuples(st.just("stall"), numbers, numbers, clock),
        ),
        max_size=60,
    )
)
def test_whatever_it_is_told_by_whatever_clock_the_estimate_is_a_number(told):
    estimator = LinkEstimator()
    for what, *values in told:
        getattr(estimator, {"rtt": "on_rtt", "transfer": "on_transfer", "stall": "on_stall"}[what])(*values)
        estimate = estimator.estimate(values[-1])
        assert 0 < estimate.uplink_bps < math.inf
        assert 0 < estimate.rtt_s < math.inf
        assert 0 <= estimate.spread < math.inf
        assert sum(weight for weight, _, _ in estimate.forecast) == pytest.approx(1) or not estimate.forecast


def test_a_short_stall_without_a_byte_leaves_room_for_the_packet_that_was_under_way():
    estimator = settled(2e6)
    bound_bps = 8 * 1_500 / 0.5
    estimator.on_stall(0, 0.5, 10)
    assert bound_bps <= estimator.estimate(10).uplink_bps < 1e6
    estimator.on_stall(0, 5.0, 15)
    assert estimator.estimate(15).uplink_bps < bound_bps


def test_a_stalled_upload_brings_the_estimate_down_and_a_transfer_brings_it_back():
    estimator = settled(2e6)
    estimator.on_stall(1_000, 2.0, 10)
    estimator.on_stall(1_000, 2.0, 12)
    assert estimator.estimate(12).uplink_bps < 0.2e6
    send(estimator, 20_000, 2e6, 14)
    send(estimator, 20_000, 2e6, 15)
    assert estimator.estimate(15).uplink_bps > 1e6
    estimator.on_stall(1e9, 1.0, 16)  # tells nothing: the link may have carried all of it
    assert estimator.estimate(16).uplink_bps > 1e6


def test_one_small_transfer_that_sat_out_an_outage_is_no_slow_link():
    estimator = settled(2e6)
    send(estimator, 2_000, 2e3, 10)  # 8 s for 2 kB
    assert estimator.estimate(10).uplink_bps > 1e6
    send(estimator, 2_000, 2e3, 20)
    assert estimator.estimate(20).uplink_bps < 1e6
