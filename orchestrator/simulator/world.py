"""Defines what a simulation is given: the world (link, clouds, arrivals), and who decides in it (a contender)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from splitvlm.link.estimator import LinkEstimator
from splitvlm.link.probing import ProbeSchedule
from splitvlm.link.traces import Trace
from splitvlm.planning.costs import CostLine
from splitvlm.planning.energy import EnergyModel


@dataclass(slots=True)
class Device:
    """Holds a device, its link, and what it has learnt of that."""

    number: int
    trace: Trace
    offset_s: float  # where in the trace its clock begins
    rtt_s: float
    estimator: LinkEstimator | None  # None where the contender does not measure
    free_s: float = 0.0
    quiet_s: float = 0.0  # since when nothing of it crosses the link
    schedule: ProbeSchedule = field(default_factory=ProbeSchedule)
    probe_bytes: float = 0.0
    last_plan: int = -1

    def deliver_s(self, at_s: float, n_bytes: float) -> float:
        """Returns the seconds until `n_bytes` that start at `at_s` have crossed the uplink."""
        return self.trace.time_to_deliver(self.offset_s + at_s, n_bytes)


class StartedRequest(NamedTuple):
    """Holds a request as it starts."""

    device: Device
    now_s: float
    arrival_s: float
    size: float  # its pictures' payload against the plan's median


class Decision(NamedTuple):
    """Holds a contender's choice. `hedge` is the device's own line that runs beside, `hedge_after_s` after the start."""

    line: CostLine
    hedge: CostLine | None = None
    hedge_after_s: float = 0.0
    predicted_s: float = 0.0


class Contender(Protocol):
    """Decides which plan serves each request."""

    name: str
    measures: bool  # whether its devices estimate the link, and probe

    @property
    def deciding_bps(self) -> Sequence[float]:
        """Returns the uplink rates at which its choice changes: a probe is worth its bytes near them."""
        ...

    def decide(self, ask: StartedRequest) -> Decision:
        """Chooses the plan of a request."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Holds what is alike for every contender.

    Each device's arrivals rise; in a closed loop a device asks again after its answer, and they are pauses.
    """

    trace: Trace
    trace_name: str
    lines: Sequence[CostLine]
    workers: dict[str, int]  # by cloud
    n_tokens: int
    rtt_s: float
    offsets_s: Sequence[float]  # one a device
    arrivals_s: Sequence[Sequence[float]]  # by device; for closed loops the pauses
    sizes: Sequence[float]
    closed: bool = False
    energy: EnergyModel = field(default_factory=EnergyModel)
