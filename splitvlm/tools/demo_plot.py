"""The demo's picture: the link and its estimate, the chosen plans and their answers, bytes and times beside a JPEG's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from splitvlm.link.traces import Trace
from splitvlm.wire.v1 import local_pb2 as pb

BIN_S = 0.25
GREY, BLACK, RED = "0.6", "black", "#cc3311"


class Point(Protocol):
    """Has what is drawn of one request."""

    @property
    def asked_at_s(self) -> float:
        """Returns when the question was asked, in seconds since the demo's start."""

    @property
    def chosen(self) -> pb.Chosen:
        """Returns the plan that the device chose, and by which estimate."""

    @property
    def report(self) -> pb.RequestReport:
        """Returns the request report that came with the answer."""

    @property
    def correct(self) -> bool:
        """Tells whether the answer was the right one."""

    @property
    def jpeg_bytes(self) -> int:
        """Returns the bytes of the same picture as JPEG, for comparison."""


def plot(file: Path, points: Sequence[Point], trace: Trace, slowdown: float, rtt_s: float) -> Path:
    """Writes a PNG with four rows over one time axis; returns its path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(4, 1, figsize=(11, 11), sharex=True, height_ratios=(3, 2, 2, 3), layout="constrained")
    names = sorted({point.report.plan for point in points})
    colours = {name: plt.get_cmap("tab10")(index % 10) for index, name in enumerate(names)}
    _draw_link(axes[0], points, trace)
    _draw_plans(axes[1], points, names, colours)
    _draw_bytes(axes[2], points, colours)
    _draw_times(axes[3], points, colours, jpeg_upload_s(points, trace, rtt_s))
    axes[3].set_xlabel("seconds since the link's start")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        if axis is not axes[1]:
            axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, borderaxespad=0.1)
    right = sum(point.correct for point in points)
    sent, jpeg = (sum(sizes) / 1e3 for sizes in ([p.report.bytes_sent for p in points], [p.jpeg_bytes for p in points]))
    figure.suptitle(
        f"splitvlm demo: {right} of {len(points)} answers right, {sent:.0f} kB sent where JPEGs take {jpeg:.0f} kB\n"
        f"(device emulated {slowdown:g} x slower, link emulated)"
    )
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file


def jpeg_upload_s(points: Sequence[Point], trace: Trace, rtt_s: float) -> list[float]:
    """Returns the seconds of sending each picture as a JPEG over the emulated link: no device, no cloud, no queue."""
    return [trace.time_to_deliver(point.asked_at_s, point.jpeg_bytes) + rtt_s for point in points]


def _draw_link(axis: Any, points: Sequence[Point], trace: Trace) -> None:
    start_s = min(point.asked_at_s for point in points)
    end_s = max(point.asked_at_s + point.report.total_s for point in points)
    times = [start_s + BIN_S * index for index in range(int((end_s - start_s) / BIN_S) + 1)]
    axis.step(times, [trace.rate_bps(t, BIN_S) / 1e3 for t in times], color=GREY, label="the link (emulated)")
    estimates = [point.chosen.uplink_bps / 1e3 for point in points]
    axis.plot([point.asked_at_s for point in points], estimates, ".", color=BLACK, label="the device's estimate")
    axis.set(yscale="log", ylabel="uplink, kbit/s")


def _draw_plans(axis: Any, points: Sequence[Point], names: Sequence[str], colours: dict[str, Any]) -> None:
    """Draws each answer under its plan; wrong ones are crossed."""
    for correct, marker in ((True, "o"), (False, "X")):
        these = [point for point in points if point.correct is correct]
        axis.scatter(
            [point.asked_at_s for point in these],
            [names.index(point.report.plan) for point in these],
            color=[colours[point.report.plan] if correct else RED for point in these],
            marker=marker,
            s=30 if correct else 90,
        )
    axis.scatter([], [], color=GREY, marker="o", s=30, label="right")
    axis.scatter([], [], color=RED, marker="X", s=90, label="wrong")
    axis.set_yticks(range(len(names)), names)
    axis.set_ylabel("chosen plan")
    axis.margins(y=0.3)
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, borderaxespad=0.1)


def _draw_bytes(axis: Any, points: Sequence[Point], colours: dict[str, Any]) -> None:
    at_s = [point.asked_at_s for point in points]
    axis.plot(at_s, [point.jpeg_bytes for point in points], "_", color=BLACK, label="JPEG of quality 75")
    axis.scatter(
        at_s, [point.report.bytes_sent for point in points], s=12, color=[colours[p.report.plan] for p in points]
    )
    axis.set(yscale="log", ylabel="bytes sent")


def _draw_times(axis: Any, points: Sequence[Point], colours: dict[str, Any], jpeg_s: Sequence[float]) -> None:
    for name, colour in colours.items():
        these = [point for point in points if point.report.plan == name]
        axis.bar(
            [point.asked_at_s for point in these],
            [point.report.total_s for point in these],
            width=[max(0.05, point.report.total_s) for point in these],
            align="edge",
            color=colour,
            label=name,
        )
    axis.plot(
        [p.asked_at_s for p in points], jpeg_s, "_", color=BLACK, label="a JPEG's upload and round trip (calculated)"
    )
    axis.set(yscale="log", ylabel="seconds to the answer")
