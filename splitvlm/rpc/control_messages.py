"""Checks whole messages of the control plane, in both directions, once, where they enter.

Nodes and orchestrator trust each other with no more than the control plane needs. A message with a wrong part is refused whole
with UsageError, and changes nothing. Profiles, limits, drops and lines are checked where plans.py parses them.
"""

from __future__ import annotations

from typing import Final

from splitvlm.domain import Plan
from splitvlm.errors import UsageError
from splitvlm.rpc.addresses import MAX_ADDRESS_CHARS, require_dialable
from splitvlm.rpc.limits import MAX_STANDBY
from splitvlm.rpc.wire_checks import (
    MAX_LINES,
    MAX_MODEL_CHARS,
    MAX_PROBLEM_CHARS,
    MAX_SECONDS,
    check_count,
    check_hash,
    check_instance,
    check_line,
    check_node,
    check_numbers,
)
from splitvlm.wire.v1 import control_pb2 as pb

MAX_LISTED_NODES: Final = 1_000  # in one reply, the newest first: 128 KiB hold them
MAX_REPORTED_PLANS: Final = 256
MAX_BPS: Final = 1e12
LEAST_HEARTBEAT_S, MOST_HEARTBEAT_S = 0.1, 300.0


def check_registration(message: pb.Registration) -> None:
    """Checks a node's registration; its profile, limits and drops aside. Raises UsageError."""
    check_node(message.node)
    check_instance(message.instance)
    if message.role not in ("edge", "cloud"):
        raise UsageError(f"{message.role[:20]!r} is not a role that registers.", advice="Roles are edge and cloud.")
    check_line("model", message.model, MAX_MODEL_CHARS)
    check_hash("weights_hash", message.weights_hash)
    check_line("listen", message.listen, MAX_ADDRESS_CHARS)
    if message.role == "cloud":
        require_dialable(message.address)


def check_heartbeat(message: pb.HeartbeatRequest) -> None:
    """Checks a node's heartbeat. Raises UsageError."""
    check_node(message.node)
    check_instance(message.instance)
    check_numbers("queue_us", [message.queue_us], 1e6 * MAX_SECONDS)


def check_leave(message: pb.LeaveRequest) -> None:
    """Checks a node's leave. Raises UsageError."""
    check_node(message.node)
    check_instance(message.instance)


def check_watch(message: pb.WatchRequest) -> None:
    """Checks a device's wish for plan tables. Raises UsageError."""
    check_node(message.node)
    check_instance(message.instance)


def check_report(message: pb.LinkReport) -> None:
    """Checks a device's link report. Raises UsageError."""
    check_node(message.node)
    check_numbers("uplink_bps", [message.uplink_bps], MAX_BPS)
    check_numbers("rtt_s", [message.rtt_s], MAX_SECONDS)
    check_numbers("spread", [message.spread], 1e6)
    check_count("plans", message.plans, MAX_REPORTED_PLANS)
    for use in message.plans:
        Plan.parse(use.plan)


def check_table(message: pb.PlanTable) -> None:
    """Checks the orchestrator's plan table; its lines aside. Raises UsageError."""
    if message.cloud_node or message.cloud_address:
        check_node(message.cloud_node)
        require_dialable(message.cloud_address)
    check_count("lines", message.lines, MAX_LINES)
    check_count("standby nodes", message.standby, MAX_STANDBY)
    for address in message.standby:
        require_dialable(address)
    check_line("problem", message.problem, MAX_PROBLEM_CHARS)
    check_line("notice", message.notice, MAX_PROBLEM_CHARS)


def heartbeat_period_s(message: pb.RegisterReply | pb.HeartbeatReply) -> float:
    """Returns the period of heartbeats that the orchestrator wants, in seconds: neither a flood nor years of silence."""
    return min(max(message.heartbeat_ms / 1e3, LEAST_HEARTBEAT_S), MOST_HEARTBEAT_S)
