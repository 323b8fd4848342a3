"""Traces: their arithmetic holds over loops and gaps, and a wrong file is refused with its line."""

import math
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.errors import UsageError
from splitvlm.link import synthesis, tracefiles
from splitvlm.link.tracefiles import load, load_living, parse, parse_rate, synthetic_names
from splitvlm.link.traces import Trace, spans

rates_bps = st.just(0.0) | st.floats(1e3, 1e9)
some_spans = st.lists(st.tuples(st.floats(0.01, 20), rates_bps), min_size=1, max_size=12)
live_traces = some_spans.map(lambda rows: Trace.of_rates("drawn", rows)).filter(lambda trace: trace.bytes_at[-1] > 0)


@given(live_traces, st.floats(0, 100), st.floats(1, 1e6))
def test_the_time_to_deliver_has_exactly_that_capacity(trace, t0_s, n_bytes):
    took_s = trace.time_to_deliver(t0_s, n_bytes)
    tolerance = 1e-6 * n_bytes + 1e9 / 8 * 1e-9  # a nanosecond of rounding at the highest rate
    assert trace.capacity_bytes(t0_s, t0_s + took_s) == pytest.approx(n_bytes, abs=tolerance)


@given(live_traces, st.floats(0, 100), st.floats(0, 50), st.floats(0, 50))
def test_capacity_adds_up(trace, t0_s, first_s, second_s):
    t1_s, t2_s = t0_s + first_s, t0_s + first_s + second_s
    parts = trace.capacity_bytes(t0_s, t1_s) + trace.capacity_bytes(t1_s, t2_s)
    assert parts == pytest.approx(trace.capacity_bytes(t0_s, t2_s), rel=1e-9, abs=1e-3)


@given(live_traces, st.floats(0, 100), st.floats(1, 1e5), st.floats(1, 1e5))
def test_one_transfer_after_another_takes_as_long_as_both(trace, t0_s, first, second):
    first_s = trace.time_to_deliver(t0_s, first)
    both_s = first_s + trace.time_to_deliver(t0_s + first_s, second)
    assert trace.capacity_bytes(t0_s, t0_s + both_s) == pytest.approx(first + second, rel=1e-6, abs=1)


def test_the_last_byte_of_a_loop_crosses_before_the_outage_that_ends_it():
    trace = load("outage:8kbit@10,5").up
    assert trace.time_to_deliver(0, 10_000) == pytest.approx(10)
    assert trace.time_to_deliver(0, 10_001) == pytest.approx(15.001)
    assert trace.time_to_deliver(12, 1_000) == pytest.approx(4)
    assert trace.rate_bps(12) == 0
    assert trace.mean_bps == pytest.approx(8e3 * 10 / 15)


def test_a_dead_link_never_delivers():
    assert Trace.constant(0).time_to_deliver(3, 1) == math.inf


def test_a_mahimahi_line_is_a_packet_at_its_millisecond():
    trace = parse("1\n5\n5\n10\n", source="m.up").up
    assert trace.duration_s == 0.010
    assert trace.time_to_deliver(0, 1500) == pytest.approx(0.001)
    assert trace.time_to_deliver(0, 4500) == pytest.approx(0.005)
    assert trace.capacity_bytes(0.005, 0.009) == pytest.approx(0)
    assert trace.capacity_bytes(0, 0.030) == pytest.approx(3 * 4 * 1500)


def test_a_csv_row_holds_until_the_next():
    trace = parse("seconds,uplink_bps,downlink_bps,rtt_s\n0,8000,16000,0.05\n2,16000,8000,0.2\n", source="t.csv")
    assert spans(trace.up) == ((2, 8000), (2, 16000))
    assert trace.down is not None
    assert spans(trace.down) == ((2, 16000), (2, 8000))
    assert [trace.rtt_s(t_s) for t_s in (0, 1.9, 2, 4.5)] == [0.05, 0.05, 0.2, 0.05]


@pytest.mark.parametrize(("text", "bps"), [("2mbit", 2e6), ("500kbit", 5e5), ("1.5Mbit", 1.5e6), ("9600", 9600)])
def test_rates_are_written_as_for_tc(text, bps):
    assert parse_rate(text) == bps


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "f is empty"),
        ("\n \n", "f is empty"),
        ("1\n2\nxyz\n", "f:3: 'xyz' is not a millisecond"),
        ("1\n-2\n", "f:2: '-2' is not a millisecond"),
        ("1.5\n", "f:1: '1.5' is not a millisecond"),
        ("7\n3\n", "f:2: 3 stands after 7"),
        ("0\n0\n", "f: the trace ends at millisecond 0"),
        ("seconds,uplink_bps\n", "f has a header, but no rows"),
        ("time,rate\n0,1\n", "f:1: the header is 'time,rate'"),
        ("seconds,uplink_bps,color\n0,1,2\n", "f:1: the header is"),
        ("seconds,uplink_bps\n0,fast\n", "f:2: 'fast' is not a number for uplink_bps"),
        ("seconds,uplink_bps\n0,nan\n", "f:2: 'nan' is not a number"),
        ("seconds,uplink_bps\n0,1000\n1,-5\n", "f:3: uplink_bps is -5, but must be from 0"),
        ("seconds,uplink_bps\n0,1\n2,1\n1,1\n", "f:4: 1 s stands after 2 s"),
        ("seconds,uplink_bps\n1,1\n", "f:2: the first row is at 1 s"),
        ("seconds,uplink_bps\n0\n", "f:2: 1 columns, but the header has 2"),
        ("seconds,uplink_bps\n0,1e13\n", "f:2: uplink_bps is 1e+13, but must be from 0 to 1e+12"),
        ("seconds,uplink_bps\n0,1\n1e-9,1\n", "f:3: 1e-09 s is less than a millisecond after the row before"),
        ("seconds,uplink_bps,rtt_s\n0,1,-0.1\n", "f:2: rtt_s is -0.1, but must be from 0 to 60"),
        ("seconds,uplink_bps,downlink_bps\n0,1,-1\n", "f:2: downlink_bps is -1, but must be from 0"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(content, words):
    with pytest.raises(UsageError) as caught:
        parse(content, source="f")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("constant:fast", "'fast' is not a rate"),
        ("constant:-2mbit", "'-2mbit' is not a rate"),
        ("constant:nan", "'nan' is not a rate"),
        ("constant:999999999999gbit", "must be from 0 to 1e+12"),
        ("step:1mbit@-3", "a number of seconds is -3, but must be from 0"),
        ("outage:1mbit@5,nan", "'nan' is not a number of seconds"),
        ("step:2mbit", "tells no seconds"),
        ("step:2mbit@0", "at least a millisecond"),
        ("outage:2mbit@5", "tells no length of the outage"),
        ("synthetic:moon", "Known names: city, constant, fade, far, mall, outage, step, train, walk"),
        ("/no/such/file.up", "Cannot read the trace /no/such/file.up"),
    ],
)
def test_a_wrong_text_is_refused(text, words):
    with pytest.raises(UsageError) as caught:
        load(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "content", ["seconds,uplink_bps\n0,8000\n2,16000\n", "1\n5\n10\n", "seconds,uplink_bps,rtt_s\n0,1,0.1\n"]
)
def test_a_byte_order_mark_changes_nothing(tmp_path, content):
    file = tmp_path / "t.csv"
    file.write_text(content, "utf-8")
    plain = load(str(file))
    file.write_text(content, "utf-8-sig")
    assert load(str(file)) == plain


@pytest.mark.parametrize("text", ["constant:0mbit", "step:0bit@5,0bit@5", "outage:0bit@5,5", "FILE"])
def test_a_dead_link_is_no_link_to_replay_and_still_one_to_emulate(tmp_path, text):
    file = tmp_path / "zero.csv"
    file.write_text("seconds,uplink_bps\n0,0\n10,0\n", "utf-8")
    text = str(file) if text == "FILE" else text
    with pytest.raises(UsageError, match="dead throughout"):
        load_living(text)
    assert load(text).up.capacity_bytes(0, 100) == 0


def test_a_link_that_lives_for_a_while_is_one_to_replay():
    assert load_living("step:0bit@30,1kbit@1").up.mean_bps == pytest.approx(1000 / 31)


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "t.up"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text file"):
        load(str(file))
    monkeypatch.setattr(tracefiles, "MAX_FILE_BYTES", 2)
    with pytest.raises(UsageError, match="larger than"):
        load(str(file))


@given(st.text(alphabet="0123456789,.-e\nabsecondsuplink_bps", max_size=60))
def test_whatever_a_file_holds_it_is_a_trace_or_a_usage_error(content):
    try:
        trace = parse(content, source="f").up
    except UsageError:
        return
    assert trace.duration_s > 0
    assert trace.capacity_bytes(0, 1) >= 0


def test_the_synthetic_files_are_what_their_functions_make():
    assert set(synthetic_names()) == set(synthesis.TRACES)
    folder = resources.files("splitvlm.link") / "synthetic"
    for name, rows in synthesis.TRACES.items():
        assert (folder / f"{name}.csv").read_text("utf-8") == synthesis.render(rows())


def test_the_demo_s_trace_spans_what_it_says():
    rates = [bps for _, bps in spans(load("synthetic:fade").up)]
    assert min(rates) < 100e3
    assert max(rates) > 4e6


@pytest.mark.parametrize("name", ["city", "train", "mall"])
def test_a_fast_link_with_rare_dips_is_fast_and_dips_rarely(name):
    rates = sorted(bps for _, bps in spans(load(f"synthetic:{name}").up))
    median_bps = rates[len(rates) // 2]
    assert median_bps > 10e6
    slow = sum(bps < median_bps / 4 for bps in rates) / len(rates)
    assert 0 < slow < 0.08
