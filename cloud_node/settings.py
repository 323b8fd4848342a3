"""The cloud node's configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from splitvlm.planning.fields import CutText
from splitvlm.rpc.wire_checks import MAX_VARIANTS
from splitvlm.settings import Address, Logging, ModelChoice, NodeName, Section, Security

EngineKind = Literal["torch", "vllm"]


class CloudLimits(Section):
    """Bounds what devices may take of this node. Whoever asks for more is told when to ask again."""

    max_sessions: int = Field(64, ge=1, le=10_000, description="open sessions of all devices together")
    max_sessions_per_device: int = Field(8, ge=1, le=1_000, description="open sessions of one device")
    requests_per_minute: float | None = Field(
        None, gt=0, le=1e6, description="of each device, and so many at once after a pause; null is no quota"
    )
    max_queue_s: float = Field(30.0, gt=0, description="a request that would wait for longer is refused")
    working_bytes: int = Field(
        4 * 2**30,
        ge=2**20,
        description="payloads, opened pictures and decoded features of the requests that run; a device alone gets half",
    )
    kv_budget_bytes: int = Field(
        2 * 2**30,
        ge=2**20,
        description="keys and values of the answers that run, a device alone gets half; what they leave is for the "
        "prefix cache",
    )
    max_payload_bytes: int = Field(64 * 2**20, ge=1_024, le=2**30, description="of one request")
    max_upload_s: float = Field(
        300.0, gt=0, description="a session whose request is not all there after so long is ended"
    )
    max_new_tokens: int = Field(512, ge=1, le=4_096, description="tokens that a device may ask for in one answer")
    idle_session_s: float = Field(600.0, gt=0, description="a session without a request is closed after so long")
    prefix_cache_bytes: int = Field(
        512 * 2**20,
        ge=0,
        description="for the prefixes of all devices' prompts, within `kv_budget_bytes`; 0 caches none",
    )
    prefix_cache_s: float = Field(
        600.0, gt=0, description="a prompt's prefix that nobody goes on from is evicted after so long"
    )
    drain_s: float = Field(10.0, ge=0, description="running requests may take so long to end after SIGTERM")


class Workers(Section):
    """Says how many workers a pool has: more while work waits, fewer when it has been idle for a minute."""

    min: int = Field(1, ge=1, le=256, description="workers that always run")
    max: int = Field(1, ge=1, le=256, description="workers that run at most")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, which is more than max, {self.max}")
        return self


class PoolChoice(Section):
    """Says where the workers run. All but `kind` is for `ray`."""

    kind: Literal["local", "ray"] = Field("local", description="one worker in this process, or workers that Ray runs")
    address: Literal["auto"] | Address | None = Field(
        None, description="host:port of a Ray cluster; `auto` is the one of this machine; null starts Ray here"
    )
    workers: Workers = Workers()
    resources: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {"CPU": 1.0}, description="what Ray reserves for each worker, e.g. `{CPU: 4, GPU: 1}`"
    )


class CloudSettings(Section):
    """Configures `splitvlm cloud --config FILE`."""

    node: NodeName = Field("cloud-1", description="name of this node, as in its certificate")
    listen: Address = Field("127.0.0.1:7442", description="host:port for devices")
    advertise: Address | None = Field(None, description="where devices reach this node; null is `listen`")
    orchestrator: Address | None = Field(None, description="host:port of the orchestrator; null runs without one")
    model: ModelChoice = ModelChoice()
    cuts: list[CutText] = Field(
        [], description="cuts to serve; empty is all. Only the weights that they need are loaded"
    )
    variants: list[Path] = Field(
        [],
        max_length=MAX_VARIANTS - 1,
        description="folders of other forms of devices' parts (docs/guide/variants.md), which devices may answer with; their "
        "weights need not be there",
    )
    engine: EngineKind = Field(
        "torch", description="what runs the language model: torch for every cut, or vllm for the cuts up to tokens"
    )
    pool: PoolChoice = PoolChoice()
    limits: CloudLimits = CloudLimits()
    security: Security = Security()
    logging: Logging = Logging()


CHANGEABLE = frozenset({"limits", "logging"})
"""Keys that SIGHUP changes."""
ROLLED_OUT = frozenset({"model", "cuts", "variants", "engine", "pool.workers", "pool.resources"})
"""Keys that SIGHUP changes besides, worker by worker, where Ray runs the workers."""
