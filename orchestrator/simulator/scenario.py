"""The configuration of a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, ValidationInfo

from splitvlm.domain import Cut
from splitvlm.errors import UsageError
from splitvlm.files.paths import path_of
from splitvlm.link.tracefiles import names_a_file
from splitvlm.planning.fields import CutText, LeakLimit
from splitvlm.planning.policy import Objective
from splitvlm.planning.table import MAX_KIND_DROP, PlanLimits
from splitvlm.settings import NodeName, Section, base_of


def _whole_trace(text: str, info: ValidationInfo) -> str:
    try:
        return str(path_of(text, base_of(info))) if names_a_file(text) else text
    except UsageError as error:
        raise ValueError(str(error)) from error


TraceText = Annotated[str, AfterValidator(_whole_trace)]
"""A trace file, counted from the scenario's folder, or one of the short texts of splitvlm.link.tracefiles."""


class Devices(Section):
    """The devices, all of one kind. `slowdown` scales the profile's device seconds: name what it stands for."""

    count: int = Field(1, ge=1, le=100_000, description="number of devices")
    slowdown: PositiveFloat = Field(1.0, description="factor on the profile's device seconds")
    stands_for: str = Field("this profile's own machine", description="the device that the slow-down makes of it")


class Cloud(Section):
    """A cloud node of `workers` model copies. `speedup` divides the profile's cloud seconds."""

    name: NodeName = Field("cloud", description="name in the report")
    workers: int = Field(1, ge=1, le=10_000, description="model copies, each of which answers one request at a time")
    speedup: PositiveFloat = Field(1.0, description="divides the profile's cloud seconds")
    rtt_s: float = Field(0.0, ge=0, le=10, description="distance beyond the access link")
    stands_for: str = Field("this profile's own machine", description="the machine that the speed-up makes of it")


class Link(Section):
    """The uplink of every device. With several devices, each replays the trace from a place of its own."""

    traces: list[TraceText] = Field(
        ["synthetic:walk"], min_length=1, description="FILE, constant:, step:, outage:, synthetic:"
    )
    rtt_s: float = Field(0.05, gt=0, le=10, description="round-trip time of the access link")
    framing_bytes: int = Field(200, ge=0, le=10_000, description="headers, sealing and TLS of a request")


class Arrivals(Section):
    """`every` and `poisson`: a request each `period_s` (on average); `closed`: the next one `period_s` after an answer."""

    kind: Literal["every", "poisson", "closed"] = Field("every", description="see above")
    period_s: float = Field(
        3.0, ge=0, le=86_400, description="seconds from one request to the next, or after an answer"
    )
    requests: int = Field(300, ge=1, le=10_000_000, description="of each device")


class Requests(Section):
    """What is asked."""

    tokens: int = Field(8, ge=1, le=4096, description="decoding steps of an answer")
    deadline_ms: float | None = Field(None, gt=0, description="an answer that comes later is of no use")


class ScenarioPlanning(Section):
    """What forbids plans, as in the edge node's configuration."""

    cuts: list[CutText] = Field([], description="allowed cuts; empty is all")
    levels: list[str] = Field([], description="allowed codec levels; empty is all")
    max_leak: LeakLimit | None = Field(None, description="largest leak of a plan; null is no limit")
    max_accuracy_drop: float | None = Field(None, ge=0, le=1, description="share of answers: 0.01 is one point")
    max_kind_drop: float | None = Field(MAX_KIND_DROP, ge=0, le=1, description="of any one kind of question")
    device_memory_bytes: int | None = Field(
        None, ge=1, description="for weights, caches and activations of the lower part"
    )
    bytes_per_day: float | None = Field(None, gt=0, description="of each device's uplink")

    def limits(self) -> PlanLimits:
        """Returns the limits that the plan table must keep."""
        return PlanLimits(
            max_accuracy_drop=self.max_accuracy_drop,
            max_kind_drop=self.max_kind_drop,
            device_memory_bytes=self.device_memory_bytes,
            max_leak=self.max_leak,
            levels=frozenset(self.levels) or None,
            cuts=frozenset(map(Cut.parse, self.cuts)) or None,
        )


class ScenarioObjective(Section):
    """What the policy makes least: weighted seconds and joules."""

    latency: float = Field(1.0, ge=0, description="weight of a second of latency")
    energy_per_j: float = Field(0.0, ge=0, description="seconds that a joule is worth")

    def objective(self) -> Objective:
        """Returns the weights by which the policy compares plans."""
        return Objective(self.latency, self.energy_per_j)


class Scenario(Section):
    """`splitvlm simulate FILE`."""

    name: str = Field("scenario", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="name of report and files")
    profiles: Path = Field(description="a file written by `splitvlm profile`")
    devices: Devices = Devices()
    clouds: list[Cloud] = Field([Cloud()], min_length=1, max_length=100)
    link: Link = Link()
    arrivals: Arrivals = Arrivals()
    requests: Requests = Requests()
    planning: ScenarioPlanning = ScenarioPlanning()
    objective: ScenarioObjective = ScenarioObjective()
    contenders: Literal["all", "adaptive"] = Field("all", description="`adaptive` leaves the comparison out")
    seed: int = Field(0, description="seed of all that chance decides")
