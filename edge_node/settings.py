"""The edge node's configuration file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from splitvlm.domain import DEVICE, Cut
from splitvlm.planning.fields import CutText, LeakLimit, PlanText
from splitvlm.planning.policy import Objective, Policy
from splitvlm.planning.table import MAX_KIND_DROP, PlanLimits
from splitvlm.settings import Address, Logging, ModelChoice, NodeName, Section, Security


class ObjectiveWeights(Section):
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
    max_new_tokens: int = Field(64, ge=1, le=4096, description="tokens of an answer, where the application names none")

    prefix_cache: bool = Field(
        True,
        description="the cloud node may remember pictures for a while: another question about one sends the question only; "
        "not with a `privacy.mode`",
    )
    hedging: bool = Field(True, description="start on the device beside the cloud, where it can answer alone")
    objective: Literal["latency", "energy"] | ObjectiveWeights = Field("latency", description="what is made least")
    deadline_ms: float | None = Field(None, gt=0, description="an answer that comes later is of no use")
    bytes_per_day: int | None = Field(None, ge=0, description="sealed bytes that may be sent, for metered links")

    @property
    def policy_keys(self) -> tuple[object, ...]:
        """What the policy is made from: it is made anew, and forgets, only where one of these changes."""
        return self.hedging, self.objective, self.deadline_ms, self.bytes_per_day

    def policy(self) -> Policy:
        """A policy that follows these settings and has nothing to remember yet."""
        match self.objective:
            case ObjectiveWeights(latency_weight=latency, energy_weight_per_j=energy):
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

    def limits(self) -> PlanLimits:
        return PlanLimits(
            max_accuracy_drop=self.max_accuracy_drop,
            max_kind_drop=self.max_kind_drop,
            device_memory_bytes=self.device_memory_bytes,
            levels=frozenset(self.levels) or None,
            cuts=frozenset(map(Cut.parse, self.cuts)) or None,
        )


class Privacy(Section):
    """What of a picture may leave the device. Without a mode, all that `planning` allows may.

    With one, no cloud node is asked to remember a picture either.
    """

    mode: Literal["device_only", "max_leak"] | None = Field(
        None,
        description="`device_only`: nothing that is made from a picture leaves, and no cloud node is dialled; "
        "`max_leak`: plans whose leak was measured, and is at most `max_leak`",
    )
    max_leak: LeakLimit | None = Field(
        None,
        description="0 is what a blank picture tells, 1 the picture itself; `splitvlm privacy check` has the table",
    )
    audit_log: Path | None = Field(
        None, description="JSON lines: what left for each answer. The last full one is kept beside it, as FILE.1"
    )
    audit_log_bytes: int = Field(16 * 2**20, ge=4_096, description="size at which another file is begun")

    @model_validator(mode="after")
    def _limit_where_limited(self) -> Privacy:
        if (self.mode == "max_leak") != (self.max_leak is not None):
            raise ValueError("`max_leak` and the mode `max_leak` belong together")
        return self


class EdgeLimits(Section):
    """What applications may take of this device at once. Whoever asks for more is told when to ask again."""

    questions: int = Field(8, ge=1, le=1_000, description="in work at once")
    working_bytes: int = Field(
        2 * 2**30, ge=2**24, description="for the pictures of questions in work: decoded, and prepared for the model"
    )
    max_new_tokens: int = Field(512, ge=1, le=4_096, description="that an application may ask for in one answer")


class Emulation(Section):
    """EMULATION ONLY: makes this machine stand for a weaker one. Whatever shows a time says so when it is used."""

    slowdown: float = Field(1.0, ge=1, le=1000, description="each stage of the device part takes so many times as long")


class EdgeSettings(Section):
    """`splitvlm edge --config FILE`."""

    node: NodeName = Field("edge-1", description="name of this node, as in its certificate")
    listen: Address = Field("127.0.0.1:7443", description="for applications on this machine")
    orchestrator: Address | None = Field(None, description="host:port of the orchestrator; null runs without one")
    cloud: Address | None = Field(
        None, description="the cloud node to use; null takes the one that the orchestrator names"
    )
    standby: list[Address] = Field([], description="cloud nodes that take over when `cloud` fails; with the same model")
    accept_standby: bool = Field(
        False, description="where `cloud` is set: cloud nodes that the orchestrator names may take over, too"
    )
    model: ModelChoice = ModelChoice()
    planning: Planning = Planning()
    privacy: Privacy = Privacy()
    limits: EdgeLimits = EdgeLimits()
    emulation: Emulation = Emulation()
    security: Security = Security()
    logging: Logging = Logging()
    drain_s: float = Field(10.0, ge=0, description="seconds that running questions have to end after SIGTERM")

    def plan_limits(self) -> PlanLimits:
        """What forbids plans: `planning`, and `privacy`."""
        limits = self.planning.limits()
        if self.privacy.mode == "device_only":
            return replace(limits, cuts=frozenset({DEVICE}))
        return replace(limits, max_leak=self.privacy.max_leak)


CHANGEABLE = frozenset(
    {
        "logging",
        "drain_s",
        "limits.max_new_tokens",
        "limits.working_bytes",
        "privacy.mode",
        "privacy.max_leak",
        *(f"planning.{name}" for name in Planning.model_fields if name not in ("cuts", "device_memory_bytes")),
    }
)
"""Keys that SIGHUP changes. The weights in memory follow from the others."""
