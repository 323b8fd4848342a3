"""The `planning` section of configurations: which plans may be used, and what the policy makes least.

The edge node's section and the simulator's are this one, with what each has besides.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from splitvlm.domain import Cut
from splitvlm.planning.fields import CutText
from splitvlm.planning.limits import MAX_KIND_DROP, PlanLimits
from splitvlm.planning.policy import Objective, Policy, PolicyOptions
from splitvlm.settings import Section


class ObjectiveWeights(Section):
    """Says what a second and a joule cost, when both count."""

    latency_weight: float = Field(1.0, ge=0, description="for each second of latency")
    energy_weight_per_j: float = Field(0.0, ge=0, description="for each joule of the device")


class Planning(Section):
    """Says which plans may be used. Null and empty forbid nothing; a limit forbids what nobody measured."""

    cuts: list[CutText] = Field([], description="allowed cuts; empty is all")
    levels: list[str] = Field([], description="allowed codec levels; empty is all")
    max_accuracy_drop: float | None = Field(
        None, ge=0, le=1, description="share of answers: 0.01 is one point. A plan whose drop is unknown is forbidden"
    )
    max_kind_drop: float | None = Field(
        MAX_KIND_DROP,
        ge=0,
        le=1,
        description="share of the answers to any one kind of question, where the loss is significant. A plan of which it is "
        "unknown is forbidden: measure it with `splitvlm evaluate MODEL --plans`, or allow it with null, which is no limit",
    )
    device_memory_bytes: int | None = Field(
        None, ge=1, description="for weights, caches and activations of the lower part"
    )
    hedging: bool = Field(True, description="start on the device beside the cloud, where it can answer alone")
    objective: Literal["latency", "energy"] | ObjectiveWeights = Field("latency", description="what is made least")
    deadline_ms: float | None = Field(None, gt=0, description="an answer that comes later is of no use")
    bytes_per_day: int | None = Field(None, ge=0, description="sealed bytes that may be sent, for metered links")

    @property
    def deadline_s(self) -> float | None:
        """Returns the deadline in seconds; None without one."""
        return None if self.deadline_ms is None else self.deadline_ms / 1e3

    def policy_options(self) -> PolicyOptions:
        """Returns what a policy is made from. A policy is made anew, and forgets, only where one of these changes."""
        match self.objective:
            case ObjectiveWeights(latency_weight=latency_weight, energy_weight_per_j=energy_weight_per_j):
                objective = Objective(latency_weight, energy_weight_per_j)
            case "energy":
                objective = Objective(0.0, 1.0)
            case _:
                objective = Objective()
        return PolicyOptions(
            objective, hedging=self.hedging, deadline_s=self.deadline_s, bytes_per_day=self.bytes_per_day
        )

    def policy(self) -> Policy:
        """Returns a policy that follows these settings and has no plan in use yet."""
        return Policy(self.policy_options())

    def limits(self) -> PlanLimits:
        """Returns the limits that the plan table must keep."""
        return PlanLimits(
            max_accuracy_drop=self.max_accuracy_drop,
            max_kind_drop=self.max_kind_drop,
            device_memory_bytes=self.device_memory_bytes,
            levels=frozenset(self.levels) or None,
            cuts=frozenset(map(Cut.parse, self.cuts)) or None,
        )
