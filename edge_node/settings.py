"""The edge node's configuration file."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from splitvlm.domain import Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.planning.table import Limits
from splitvlm.settings import Address, Logging, ModelChoice, NodeName, Section, Security


def _parses_as(kind: type[Cut] | type[Plan]) -> AfterValidator:
    def check(text: str) -> str:
        try:
            kind.parse(text)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


CutText = Annotated[str, _parses_as(Cut)]
PlanText = Annotated[str, _parses_as(Plan)]


class Planning(Section):
    """Which plans may be used. Null and empty forbid nothing."""

    fixed_plan: PlanText | None = Field(None, description="always this plan, e.g. `tokens/int4`; needs no orchestrator")
    cuts: list[CutText] = Field(
        [], description="allowed cuts; the weights that they need are loaded. Empty is all that fit"
    )
    levels: list[str] = Field([], description="allowed codec levels")
    privacy_floor: CutText | None = Field(None, description="the shallowest cut whose features may leave the device")
    max_accuracy_drop: float | None = Field(None, ge=0, le=1, description="share of answers: 0.01 is one point")
    device_memory_bytes: int | None = Field(
        None, ge=1, description="for weights, caches and activations of the lower part"
    )
    expected_tokens: int = Field(8, ge=1, le=4096, description="length of a usual answer, for predictions")
    max_new_tokens: int = Field(64, ge=1, le=4096)

    def limits(self) -> Limits:
        return Limits(
            max_accuracy_drop=self.max_accuracy_drop,
            device_memory_bytes=self.device_memory_bytes,
            privacy_floor=Cut.parse(self.privacy_floor) if self.privacy_floor else None,
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
    model: ModelChoice = ModelChoice()
    planning: Planning = Planning()
    emulation: Emulation = Emulation()
    security: Security = Security()
    logging: Logging = Logging()
    drain_s: float = Field(10.0, ge=0)
