"""The orchestrator's configuration file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from splitvlm.planning.fields import PlanText
from splitvlm.settings import Address, Logging, NodeName, Section, Security


class OrchestratorSettings(Section):
    """Configures `splitvlm orchestrator --config FILE`."""

    node: NodeName = Field("orchestrator", description="name of this node, as in its certificate")
    listen: Address = Field("127.0.0.1:7441", description="host:port for all nodes")
    heartbeat_s: float = Field(
        0.75, ge=0.1, le=60, description="period of nodes' heartbeats; a node is dead after three missed ones"
    )
    accuracy: dict[PlanText, Annotated[float, Field(ge=0, le=1)]] = Field(
        {},
        description="accuracy drop of plans, e.g. `tokens/int2: 0.004` for 0.4 points; counts before what was measured",
    )
    security: Security = Security()
    logging: Logging = Logging()
    drain_s: float = Field(5.0, ge=0, description="seconds that running calls have to end after SIGTERM")


CHANGEABLE = frozenset({"accuracy", "heartbeat_s", "logging", "drain_s"})
"""Keys that SIGHUP changes."""
