"""The edge node's configuration file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from splitvlm.domain import DEVICE
from splitvlm.planning.fields import LeakLimit, PlanText
from splitvlm.planning.limits import PlanLimits
from splitvlm.planning.settings import Planning
from splitvlm.rpc.wire_checks import MAX_VARIANTS
from splitvlm.settings import Address, Logging, ModelChoice, NodeName, Section, Security


class EdgePlanning(Planning):
    """Says which plans may be used. Null and empty forbid nothing; a limit forbids what nobody measured.

    The weights that the allowed cuts need are loaded: empty `cuts` are all that fit.
    """

    fixed_plan: PlanText | None = Field(None, description="always this plan, e.g. `tokens/int4`; needs no orchestrator")
    expected_tokens: int = Field(8, ge=1, le=4096, description="length of a usual answer, for predictions")
    max_new_tokens: int = Field(64, ge=1, le=4096, description="tokens of an answer, where the application names none")
    prefix_cache: bool = Field(
        True,
        description="the cloud node may cache prompts' prefixes: one that begins alike sends its rest only; "
        "not with a `privacy.mode`",
    )


class Privacy(Section):
    """Says what of a picture may leave the device. Without a mode, all that `planning` allows may.

    With one, no cloud node is asked to cache a prompt's prefix either.
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
    """Bounds what applications may take of this device at once. Whoever asks for more is told when to ask again."""

    questions: int = Field(8, ge=1, le=1_000, description="in work at once")
    working_bytes: int = Field(
        2 * 2**30,
        ge=2**24,
        description="for the questions in work: pictures, decoded and prepared for the model, and keys and values",
    )
    max_new_tokens: int = Field(512, ge=1, le=4_096, description="that an application may ask for in one answer")


class Http(Section):
    """Serves the OpenAI API to applications (docs/guide/applications.md). Needs the extra `http`.

    On loopback plain HTTP without a token is the default; elsewhere it is TLS with one.
    """

    listen: Address | None = Field(None, description="host:port; null serves no HTTP")
    model_name: str | None = Field(
        None, min_length=1, max_length=200, description="the model's name in the API; null is `model.name`'s last part"
    )
    token_file: Path | None = Field(None, description="file with the bearer token that applications send")
    certificate: Path | None = Field(
        None, description="PEM file for TLS; null: none on loopback, the node's own elsewhere"
    )
    key: Path | None = Field(None, description="PEM file of its private key; null: it is in the certificate's file")
    image_folders: list[Path] = Field([], description="folders from which applications may name images as file:// URLs")
    fetch_hosts: list[str] = Field([], description="hosts from which images are fetched that applications name by URL")
    max_body_bytes: int = Field(
        48 * 2**20, ge=2**10, le=2**30, description="of one request, with its images in base64; four of them are held"
    )
    temperature: float = Field(0.0, ge=0, le=100, description="where a request names none; 0 is greedy")


class Emulation(Section):
    """Makes, for emulation only, this machine stand for a weaker one. Whatever shows a time says so when it is used."""

    slowdown: float = Field(1.0, ge=1, le=1000, description="each stage of the device part takes so many times as long")


class EdgeSettings(Section):
    """Configures `splitvlm edge --config FILE`."""

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
    variants: list[Path] = Field(
        [],
        max_length=MAX_VARIANTS - 1,
        description="folders of other forms of the device's part (docs/guide/variants.md), which the planner may pick, too",
    )
    planning: EdgePlanning = EdgePlanning()
    privacy: Privacy = Privacy()
    limits: EdgeLimits = EdgeLimits()
    emulation: Emulation = Emulation()
    http: Http = Http()
    security: Security = Security()
    logging: Logging = Logging()
    drain_s: float = Field(10.0, ge=0, description="seconds that running questions have to end after SIGTERM")

    def plan_limits(self) -> PlanLimits:
        """Returns the limits that forbid plans, from `planning` and `privacy`."""
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
        *(f"planning.{name}" for name in EdgePlanning.model_fields if name not in ("cuts", "device_memory_bytes")),
    }
)
"""Keys that SIGHUP changes. The weights in memory follow from the others."""
