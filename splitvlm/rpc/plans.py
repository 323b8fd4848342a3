"""Limits and plan tables to and from the wire. What a peer sends is checked here, once: cuts and plans are parsed, counts and
numbers are within bounds. Raises UsageError.
"""

from __future__ import annotations

from collections.abc import Sequence

from splitvlm.domain import Cut, Plan, parse_level
from splitvlm.planning.costs import CostLine
from splitvlm.planning.limits import PlanLimits
from splitvlm.planning.table import PlanTable
from splitvlm.rpc.profiles import kind_from_wire, kind_to_wire
from splitvlm.rpc.wire_checks import (
    MAX_BYTES,
    MAX_CUTS,
    MAX_LEVELS,
    MAX_PROBLEM_CHARS,
    MAX_SECONDS,
    MAX_TRIPS,
    check_count,
    check_node,
    check_numbers,
)
from splitvlm.wire.v1 import control_pb2 as pb


def limits_to_wire(limits: PlanLimits) -> pb.PlanLimits:
    """Returns the message of the limits that plans must keep; a limit that is not set stays unset."""
    return pb.PlanLimits(
        device_memory_bytes=limits.device_memory_bytes or 0,
        max_accuracy_drop=limits.max_accuracy_drop,
        max_kind_drop=limits.max_kind_drop,
        cuts=sorted(map(str, limits.cuts or ())),
        levels=sorted(limits.levels or ()),
        max_leak=limits.max_leak,
    )


def limits_from_wire(message: pb.PlanLimits) -> PlanLimits:
    """Returns the limits in a message. Raises UsageError for numbers or counts out of bounds."""
    check_numbers("device_memory_bytes", [message.device_memory_bytes], MAX_BYTES)
    check_numbers(
        "max_accuracy_drop, max_kind_drop, max_leak",
        [message.max_accuracy_drop, message.max_kind_drop, message.max_leak],
        1.0,
    )
    check_count("allowed cuts", message.cuts, MAX_CUTS)
    check_count("allowed levels", message.levels, MAX_LEVELS)
    return PlanLimits(
        max_accuracy_drop=message.max_accuracy_drop if message.HasField("max_accuracy_drop") else None,
        max_kind_drop=message.max_kind_drop if message.HasField("max_kind_drop") else None,
        device_memory_bytes=message.device_memory_bytes or None,
        max_leak=message.max_leak if message.HasField("max_leak") else None,
        levels=frozenset(map(parse_level, message.levels)) or None,
        cuts=frozenset(map(Cut.parse, message.cuts)) or None,
    )


def table_to_wire(
    table: PlanTable,
    *,
    cloud_node: str,
    cloud_address: str,
    standby: Sequence[str] = (),
    problem: str = "",
    notice: str = "",
) -> pb.PlanTable:
    """Returns the message of a plan table, with the cloud node that serves it and those on standby.

    `problem` says why a device gets no better table; it is cut to MAX_PROBLEM_CHARS.
    """
    return pb.PlanTable(
        version=table.version,
        cloud_node=cloud_node,
        cloud_address=cloud_address,
        standby=standby,
        problem=problem[:MAX_PROBLEM_CHARS],
        notice=notice[:MAX_PROBLEM_CHARS],
        lines=[
            pb.CostLine(
                plan=str(line.plan),
                cloud=line.cloud,
                accuracy_drop=line.accuracy_drop,
                leak=line.leak,
                worst_kind=kind_to_wire(line.worst_kind),
                **{name: getattr(line, name) for name in _LINE_NUMBERS},
            )
            for line in table.lines
        ],
    )


def table_from_wire(message: pb.PlanTable) -> PlanTable:
    """Returns the plan table in a message. Raises UsageError for names, plans or numbers out of bounds."""
    for line in message.lines:
        if line.cloud:
            check_node(line.cloud)
        for name, most in _LINE_NUMBERS.items():
            check_numbers(name, [getattr(line, name)], most)
        check_numbers("accuracy_drop, leak", [line.accuracy_drop, line.leak], 1.0)
    lines = (
        CostLine(
            plan=Plan.parse(line.plan),
            cloud=line.cloud,
            worst_kind=kind_from_wire(line),
            accuracy_drop=line.accuracy_drop if line.HasField("accuracy_drop") else None,
            leak=line.leak if line.HasField("leak") else None,
            **{name: getattr(line, name) for name in _LINE_NUMBERS},
        )
        for line in message.lines
    )
    return PlanTable(message.version, tuple(lines))


_LINE_NUMBERS = {
    "device_s": MAX_SECONDS,
    "encode_s": MAX_SECONDS,
    "payload_bytes": MAX_BYTES,
    "decode_s": MAX_SECONDS,
    "queue_s": MAX_SECONDS,
    "cloud_s": MAX_SECONDS,
    "token_s": 2 * MAX_SECONDS,  # the device's and the cloud's
    "trips": MAX_TRIPS,
    "trips_per_token": MAX_TRIPS,
    "device_memory_bytes": MAX_BYTES,
    "token_bytes": MAX_BYTES,
    "cloud_rtt_s": MAX_SECONDS,
}
"""What each number of a line may be at most, those that may be unknown aside."""
