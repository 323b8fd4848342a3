"""The demo's picture: the link's rate, the chosen plan, and the latency, over one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from splitvlm.link.traces import Trace
from splitvlm.wire.v1 import local_pb2 as pb

BIN_S = 0.25


class Point(Protocol):
    """What is drawn of one request."""

    @property
    def asked_at_s(self) -> float: ...
    @property
    def chosen(self) -> pb.Chosen: ...
    @property
    def account(self) -> pb.Account: ...
    @property
    def correct(self) -> bool: ...


def plot(file: Path, points: Sequence[Point], trace: Trace, slowdown: float) -> Path:
    """Writes a PNG with three rows; returns its path."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    end_s = max(point.asked_at_s + point.account.total_s for point in points)
    start_s = min(point.asked_at_s for point in points)
    figure, (link, plans, latency) = plt.subplots(3, 1, figsize=(11, 8), sharex=True, height_ratios=(3, 2, 3))
    times = [start_s + BIN_S * index for index in range(int((end_s - start_s) / BIN_S) + 1)]
    link.step(times, [trace.rate_bps(t, BIN_S) / 1e3 for t in times], color="0.6", label="the link (emulated)")
    at = [point.asked_at_s for point in points]
    link.plot(at, [point.chosen.uplink_bps / 1e3 for point in points], "k.", label="the device's estimate")
    link.set_yscale("log")
    link.set_ylabel("uplink, kbit/s")
    link.legend(loc="lower left")
    names = sorted({point.account.plan for point in points})
    colours = {name: plt.get_cmap("tab10")(index % 10) for index, name in enumerate(names)}
    for name in names:
        mine = [point for point in points if point.account.plan == name]
        x = [point.asked_at_s for point in mine]
        plans.scatter(x, [names.index(name)] * len(mine), color=colours[name], s=30)
        latency.bar(
            x,
            [point.account.total_s * 1e3 for point in mine],
            width=[max(0.05, point.account.total_s) for point in mine],
            align="edge",
            color=colours[name],
            label=name,
        )
    plans.set_yticks(range(len(names)), names)
    plans.set_ylabel("chosen plan")
    plans.margins(y=0.3)
    latency.set_ylabel("answer's time, ms")
    latency.set_xlabel("seconds since the link's start")
    latency.legend(loc="upper right")
    figure.suptitle(f"splitvlm demo: device emulated {slowdown:g} x slower, link emulated")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file
