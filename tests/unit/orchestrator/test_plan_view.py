"""`splitvlm plan`: spans that join, crossings that hold, reasons with numbers."""

import io
import itertools
import math
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.plan_view import as_json, axis_of, draw, rate, reasons, show, view
from splitvlm.planning.limits import PlanLimits
from splitvlm.planning.profiles import scaled
from splitvlm.profiling.profile_file import read, write

PROFILES = scaled(
    read(Path(__file__).parents[3] / "examples" / "profiles" / "scenes.json"), device_slowdown=10, cloud_speedup=30
)


@pytest.mark.parametrize("limits", [PlanLimits(), PlanLimits(max_leak=0.95), PlanLimits(max_accuracy_drop=0.0)])
@pytest.mark.parametrize("n_tokens", [0, 8, 64])
def test_in_each_span_its_plan_is_the_fastest(limits, n_tokens):
    seen = view(PROFILES, limits, 0.05, n_tokens)
    assert math.isinf(seen.spans[0].high_bps)
    assert seen.spans[-1].low_bps == 0
    for one, other in itertools.pairwise(seen.spans):
        assert one.low_bps == other.high_bps
        times = [span.line.latency_s(one.low_bps, 0.05, n_tokens) for span in (one, other)]
        assert times[0] == pytest.approx(times[1])
    for span in seen.spans:
        inside_bps = math.sqrt(max(span.low_bps, 10) * min(span.high_bps, 1e12))
        best_s = min(line.latency_s(inside_bps, 0.05, n_tokens) for line in seen.allowed)
        assert span.line.latency_s(inside_bps, 0.05, n_tokens) == pytest.approx(best_s)


def test_what_is_printed_names_what_was_left_out():
    console = Console(file=io.StringIO(), width=100)
    show(view(PROFILES, PlanLimits(max_leak=0.95), 0.05, 8), console, every=True, explain=True)
    text = console.file.getvalue()
    assert "forbidden: image/jpeg50 by max_leak" in text
    assert "device/none" in text


def test_reasons_hold_the_crossing():
    seen = view(PROFILES, PlanLimits(), 0.05, 8)
    sentences = list(reasons(seen))
    assert len(sentences) == len(seen.spans)
    assert all(rate(span.low_bps) in sentence for span, sentence in zip(seen.spans[:-1], sentences, strict=False))


def test_json_and_picture(tmp_path):
    seen = view(PROFILES, PlanLimits(), 0.05, 8)
    assert as_json(seen)["spans"][0]["high_bps"] is None
    draw(seen, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_every_span_lies_on_the_picture():
    """The device's span ended below the axis: a colour in the legend that nobody found."""
    seen = view(PROFILES, PlanLimits(), 0.05, 8)
    slowest_bps, fastest_bps = axis_of(seen)
    for span in seen.spans:
        assert max(span.low_bps, slowest_bps) < min(span.high_bps, fastest_bps)


def test_a_profile_file_comes_back_as_it_was(tmp_path):
    write(tmp_path / "p.json", PROFILES)
    again = read(tmp_path / "p.json")
    assert again.lines()[0].plan == PROFILES.lines()[0].plan
    for one, other in zip(again.lines(), PROFILES.lines(), strict=True):
        assert one.fixed_s == pytest.approx(other.fixed_s, rel=1e-4)
        assert one.payload_bytes == other.payload_bytes
