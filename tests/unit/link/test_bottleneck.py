"""The bottleneck on plain numbers: never faster than its trace, never slower when it is busy, bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.link.bottleneck import Bottleneck
from splitvlm.link.tracefiles import load
from splitvlm.link.traces import Trace

arrivals = st.lists(st.tuples(st.floats(0, 2), st.integers(1, 5_000)), min_size=1, max_size=40)  # gaps, sizes
T0_S = 1000.0


@given(arrivals, st.sampled_from(["constant:1mbit", "outage:500kbit@3,2", "synthetic:walk"]))
def test_no_window_carries_more_than_the_trace(steps, text):
    trace = load(text).up
    bottleneck, now_s, departures = Bottleneck(trace, T0_S, queue_bytes=10**9), T0_S, []
    for gap_s, n_bytes in steps:
        now_s += gap_s
        departures.append((bottleneck.book(now_s, n_bytes), n_bytes))
    for i, (first_s, _) in enumerate(departures):
        carried = 0
        for last_s, n_bytes in departures[i + 1 :]:
            carried += n_bytes
            assert carried <= trace.capacity_bytes(first_s - T0_S, last_s - T0_S) * (1 + 1e-6) + 0.01


def test_a_busy_link_loses_nothing_to_late_readers():
    bottleneck = Bottleneck(Trace.constant(1e6), T0_S, queue_bytes=20_000)
    now_s, sent, departure_s = T0_S, 0, T0_S
    while departure_s < T0_S + 10:
        room_s = bottleneck.room_at_s(now_s)
        now_s = room_s + 0.015 if room_s > now_s else now_s  # whoever waits wakes up 15 ms late
        departure_s = bottleneck.book(now_s, 1448)
        sent += 1448
    assert sent == pytest.approx(10 * 1e6 / 8, rel=0.005)


def test_an_idle_link_saves_no_credit():
    bottleneck = Bottleneck(Trace.constant(8_000), T0_S, queue_bytes=10_000)
    assert bottleneck.book(T0_S + 100, 1_000) == pytest.approx(T0_S + 101)


def test_a_full_queue_tells_when_it_has_room():
    bottleneck = Bottleneck(Trace.constant(8_000), T0_S, queue_bytes=2_500)
    for _ in range(3):
        assert bottleneck.room_at_s(T0_S) == T0_S
        bottleneck.book(T0_S, 1_000)
    assert bottleneck.room_at_s(T0_S) == pytest.approx(T0_S + 1)
    assert bottleneck.room_at_s(T0_S + 1.5) == T0_S + 1.5


def test_a_dead_link_never_has_room_again():
    bottleneck = Bottleneck(Trace.constant(0), T0_S, queue_bytes=1_000)
    bottleneck.book(T0_S, 2_000)
    assert bottleneck.room_at_s(T0_S + 5) == float("inf")


def test_what_is_held_leaves_later():
    bottleneck = Bottleneck(Trace.constant(8_000), T0_S, queue_bytes=10_000)
    bottleneck.block_until(T0_S + 7)
    assert bottleneck.book(T0_S + 1, 1_000) == pytest.approx(T0_S + 8)


def test_packets_are_single_on_a_slow_link_and_joined_on_a_fast_one():
    assert Bottleneck(Trace.constant(100e3), T0_S, queue_bytes=1).quantum_bytes(T0_S) == 1448
    assert Bottleneck(Trace.constant(100e6), T0_S, queue_bytes=1).quantum_bytes(T0_S) == 25_000
