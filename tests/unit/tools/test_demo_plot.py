"""The demo's picture is drawn whatever came back, and its JPEG baseline is the link's own arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from splitvlm.link.traces import Trace
from splitvlm.tools.demo_plot import jpeg_upload_s, plot
from splitvlm.wire.v1 import local_pb2 as pb


@dataclass
class Answered:
    asked_at_s: float
    correct: bool = True
    jpeg_bytes: int = 10_000
    chosen: pb.Chosen = field(default_factory=lambda: pb.Chosen(uplink_bps=1e6))
    report: pb.RequestReport = field(
        default_factory=lambda: pb.RequestReport(plan="image/jpeg50", bytes_sent=3_000, total_s=0.4)
    )


def test_the_jpeg_baseline_is_its_upload_over_the_true_link_and_a_round_trip():
    trace = Trace.of_rates("t", [(10.0, 80e3), (10.0, 800e3)])
    assert jpeg_upload_s([Answered(0.0), Answered(12.0), Answered(9.5)], trace, 0.03) == pytest.approx(
        [1.03, 0.13, 0.5 + 0.05 + 0.03]
    )


@pytest.mark.parametrize("wrong", [(), (1,), (0, 1, 2)])
def test_right_and_wrong_answers_are_drawn(tmp_path: Path, wrong: tuple[int, ...]):
    points = [Answered(float(second), correct=second not in wrong) for second in range(3)]
    assert plot(tmp_path / "demo.png", points, Trace.constant(1e6), 5.0, 0.03).stat().st_size > 10_000
