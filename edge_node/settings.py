"""The edge node's configuration file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from splitvlm.domain import Cut
from splitvlm.planning.fields import CutText, FloorText, PlanText
from splitvlm.planning.policy import Objective, Policy
from splitvlm.planning.table import MAX_KIND_DROP, Limits, parse_floor
from splitvlm.settings import Address, Logging, ModelChoice, NodeName, Section, Security


class Weights(Section):
    """What a second and a joule cost, when both count."""

    latency_weight: float = Field(1.0, ge=0, description="for each second of latency")
    energy_weight_per_j: float = Field(0.0, ge=0, description="for each joule of the device")


class Planning(Section):
    """Which plans may be used. Null and empty forbid nothing."""

    fixed_plan: PlanText | None = Field(None, description="always this plan, e.g. `tokens/int4`; needs no orchestrator")
    cuts: list[CutText] = Field(
        [], description="allowed cuts; the weights that they need are loaded. Empty is all that fit"
    )
    levels: list[str] = Field([], description="allowed codec levels")
    privacy_floor: FloorText | None = Field(
        None,
        description="the shallowest cut whose features may leave the device, or the most that may leak: 0.5 is half",
    )
    max_accuracy_drop: float | None = Field(None, ge=0, le=1, description="share of answers: 0.01 is one point")
    max_kind_drop: float | None = Field(
        MAX_KIND_DROP,
        ge=0,
        le=1,
        description="share of the answers to any one kind of question, where the loss is significant; null is no limit",
    )
    device_memory_bytes: int | None = Field(
        None, ge=1, description="for weights, caches and activations of the lower part"
    )
    expected_tokens: int = Field(8, ge=1, le=4096, description="length of a usual answer, for predictions")
    max_new_tokens: int = Field(64, ge=1, le=4096)

    ask_again: bool = Field(
        True,
        description="the cloud node may remember pictures for a while: another question about one sends the question only",
    )
    hedging: bool = Field(True, description="start on the device beside the cloud, where it can answer alone")
    objective: Literal["latency", "energy"] | Weights = Field("latency", description="what is made least")
    deadline_ms: float | None = Field(None, gt=0, description="an answer that comes later is of no use")
    bytes_per_day: int | None = Field(None, ge=0, description="sealed bytes that may be sent, for metered links")

    @property
    def policy_keys(self) -> tuple[object, ...]:
        """What the policy is made from: it is made anew, and forgets, only where one of these changes."""
        return self.hedging, self.objective, self.deadline_ms, self.bytes_per_day

    def policy(self) -> Policy:
        """A policy that follows these settings and has nothing to remember yet."""
        match self.objective:
            case Weights(latency_weight=latency, energy_weight_per_j=energy):
                objective = Objective(latency, energy)
            case "energy":
                objective = Objective(0.0, 1.0)
            case _:
                objective = Objective()
        return Policy(
            objective=objective,
            hedging=self.hedging,
            deadline_s=None if self.deadline_ms is None else self.deadline_ms / 1e3,
            bytes_per_day=self.bytes_per_day,
        )

    def limits(self) -> Limits:
        return Limits(
            max_accuracy_drop=self.max_accuracy_drop,
            max_kind_drop=self.max_kind_drop,
            device_memory_bytes=self.device_memory_bytes,
            privacy_floor=parse_floor(self.privacy_floor),
            levels=frozenset(self.levels) or None,
            cuts=frozenset(map(Cut.parse, self.cuts)) or None,
        )


class Emulation(Section):
    """EMULATION ONLY: makes this machine stand for a weaker one. Whatever shows a time says so when it is used."""

    slowdown: float = Field(1.0, ge=1, le=1000, description="each stage of the device part takes so many times as long")


class EdgeSettings(Section):
    """`splitvlm edge --config FILE`."""

    node: NodeName = "edge-1"
    listen: Address = Field("127.0.0.1:7443", description="for applications on this machine")
    orchestrator: Address | None = None
    cloud: Address | None = Field(
        None, description="the cloud node to use; null takes the one that the orchestrator names"
    )
    standby: list[Address] = Field([], description="cloud nodes that take over when `cloud` fails; with the same model")
    accept_standby: bool = Field(
        False, description="where `cloud` is set: cloud nodes that the orchestrator names may take over, too"
    )
    model: ModelChoice = ModelChoice()
    planning: Planning = Planning()
    emulation: Emulation = Emulation()
    security: Security = Security()
    logging: Logging = Logging()
    drain_s: float = Field(10.0, ge=0)


CHANGEABLE = frozenset(
    {
        "logging",
        "drain_s",
        *(f"planning.{name}" for name in Planning.model_fields if name not in ("cuts", "device_memory_bytes")),
    }
)
"""Keys that SIGHUP changes. The weights in memory follow from the others."""
