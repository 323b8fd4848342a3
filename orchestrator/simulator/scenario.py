"""The configuration of a simulation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, ValidationInfo

from splitvlm.errors import UsageError
from splitvlm.files.paths import path_of
from splitvlm.link.tracefiles import names_a_file
from splitvlm.planning.fields import LeakLimit
from splitvlm.planning.limits import PlanLimits
from splitvlm.planning.settings import Planning
from splitvlm.settings import NodeName, Section, base_of


def _whole_trace(text: str, info: ValidationInfo) -> str:
    try:
        return str(path_of(text, base_of(info))) if names_a_file(text) else text
    except UsageError as error:
        raise ValueError(str(error)) from error


TraceText = Annotated[str, AfterValidator(_whole_trace)]
"""A trace file, counted from the scenario's folder, or one of the short texts of splitvlm.link.tracefiles."""


class Devices(Section):
    """Describes the devices, all of one kind. `slowdown` scales the profile's device seconds: name what it stands for."""

    count: int = Field(1, ge=1, le=100_000, description="number of devices")
    slowdown: PositiveFloat = Field(1.0, description="factor on the profile's device seconds")
    stands_for: str = Field("this profile's own machine", description="the device that the slow-down makes of it")


class Cloud(Section):
    """Describes a cloud node of `workers` model copies. `speedup` divides the profile's cloud seconds."""

    name: NodeName = Field("cloud", description="name in the report")
    workers: int = Field(1, ge=1, le=10_000, description="model copies, each of which answers one request at a time")
    speedup: PositiveFloat = Field(1.0, description="divides the profile's cloud seconds")
    rtt_s: float = Field(0.0, ge=0, le=10, description="distance beyond the access link")
    stands_for: str = Field("this profile's own machine", description="the machine that the speed-up makes of it")


class Link(Section):
    """Describes the uplink of every device. With several devices, each replays the trace from a place of its own."""

    traces: list[TraceText] = Field(
        ["synthetic:walk"], min_length=1, description="FILE, constant:, step:, outage:, synthetic:"
    )
    rtt_s: float = Field(0.05, gt=0, le=10, description="round-trip time of the access link")
    framing_bytes: int = Field(200, ge=0, le=10_000, description="headers, sealing and TLS of a request")


class Arrivals(Section):
    """Says when requests come: `every` and `poisson` each `period_s` (on average), `closed` `period_s` after an answer."""

    kind: Literal["every", "poisson", "closed"] = Field("every", description="see above")
    period_s: float = Field(
        3.0, ge=0, le=86_400, description="seconds from one request to the next, or after an answer"
    )
    requests: int = Field(300, ge=1, le=10_000_000, description="of each device")


class Requests(Section):
    """Says what devices ask, and how long the answers are."""

    tokens: int = Field(8, ge=1, le=4096, description="decoding steps of an answer")


class ScenarioPlanning(Planning):
    """Says which plans may be used, as in the edge node's configuration. Null and empty forbid nothing."""

    max_leak: LeakLimit | None = Field(
        None, description="largest leak of a plan; null is no limit. An edge node has it in `privacy`"
    )

    def limits(self) -> PlanLimits:
        """Returns the limits that the plan table must keep."""
        return replace(super().limits(), max_leak=self.max_leak)


class Scenario(Section):
    """Configures `splitvlm simulate FILE`."""

    name: str = Field("scenario", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="name of report and files")
    profiles: Path = Field(description="a file written by `splitvlm profile`")
    devices: Devices = Devices()
    clouds: list[Cloud] = Field([Cloud()], min_length=1, max_length=100)
    link: Link = Link()
    arrivals: Arrivals = Arrivals()
    requests: Requests = Requests()
    planning: ScenarioPlanning = ScenarioPlanning()
    contenders: Literal["all", "adaptive"] = Field("all", description="`adaptive` leaves the comparison out")
    seed: int = Field(0, description="seed of all that chance decides")
