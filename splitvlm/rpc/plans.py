"""Planning's values to and from the wire. What a peer sends is checked here, once: cuts and plans are parsed, counts and
numbers are within bounds. Raises UsageError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from splitvlm.domain import Cut, Plan, parse_level
from splitvlm.planning.costs import CloudProfile, CostLine, DeviceProfile
from splitvlm.planning.kinds import AccuracyDrop, KindDrop
from splitvlm.planning.table import PlanLimits, PlanTable
from splitvlm.rpc.wire_checks import (
    MAX_BYTES,
    MAX_CODINGS,
    MAX_CUTS,
    MAX_KIND_CHARS,
    MAX_LEVELS,
    MAX_PROBLEM_CHARS,
    MAX_SECONDS,
    MAX_TRIPS,
    check_count,
    check_line,
    check_node,
    check_numbers,
)
from splitvlm.wire.v1 import control_pb2 as pb


def device_profile_to_wire(profile: DeviceProfile) -> pb.DeviceProfile:
    """Returns the message of a device's profile: times in seconds, sizes in bytes, leaks where measured."""
    return pb.DeviceProfile(
        cuts=_times(profile.cuts),
        coding=[
            pb.CodingCost(
                cut=str(cut),
                level=level,
                seconds=seconds,
                payload_bytes=size,
                token_bytes=profile.token_bytes.get((cut, level), 0),
                leak=profile.leak.get((cut, level)),
            )
            for (cut, level), (seconds, size) in profile.coding.items()
        ],
        tokens=_times(profile.token_s),
        memory=[pb.CutBytes(cut=str(cut), bytes=size) for cut, size in profile.memory_bytes.items()],
    )


def device_profile_from_wire(message: pb.DeviceProfile) -> DeviceProfile:
    """Returns the profile in a message. Raises UsageError for numbers, cuts or counts out of bounds."""
    coding = _by_coding(message.coding)
    check_count("cuts with memory", message.memory, MAX_CUTS)
    check_numbers("memory", (m.bytes for m in message.memory), MAX_BYTES)
    return DeviceProfile(
        cuts=_by_cut(message.cuts),
        coding={key: (c.seconds, c.payload_bytes) for key, c in coding.items()},
        token_s=_by_cut(message.tokens),
        memory_bytes={Cut.parse(m.cut): m.bytes for m in message.memory},
        token_bytes={key: c.token_bytes for key, c in coding.items() if c.token_bytes},
        leak={key: c.leak for key, c in coding.items() if c.HasField("leak")},
    )


def cloud_profile_to_wire(profile: CloudProfile) -> pb.CloudProfile:
    """Returns the message of a cloud node's profile: times in seconds."""
    return pb.CloudProfile(
        cuts=_times(profile.cuts),
        coding=[
            pb.CodingCost(cut=str(cut), level=level, seconds=seconds)
            for (cut, level), seconds in profile.coding.items()
        ],
        tokens=_times(profile.token_s),
        queue_s=profile.queue_s,
    )


def cloud_profile_from_wire(message: pb.CloudProfile) -> CloudProfile:
    """Returns the profile in a message. Raises UsageError for numbers, cuts or counts out of bounds."""
    check_numbers("queue_s", [message.queue_s], MAX_SECONDS)
    return CloudProfile(
        cuts=_by_cut(message.cuts),
        coding={key: c.seconds for key, c in _by_coding(message.coding).items()},
        token_s=_by_cut(message.tokens),
        queue_s=message.queue_s,
    )


def accuracy_to_wire(plan: Plan, drop: AccuracyDrop) -> pb.PlanAccuracy:
    """Returns the message of a plan's measured accuracy drop."""
    return pb.PlanAccuracy(plan=str(plan), drop=drop.mean, worst_kind=_kind_to_wire(drop.worst_kind))


def accuracy_from_wire(entries: Sequence[pb.PlanAccuracy]) -> dict[Plan, AccuracyDrop]:
    """Returns the measured drops by plan. Raises UsageError for unknown plans or numbers out of bounds."""
    check_count("measured drops", entries, MAX_CODINGS)
    return {Plan.parse(entry.plan): AccuracyDrop(entry.drop, _kind_from_wire(entry)) for entry in entries}


def _kind_to_wire(worst: KindDrop | None) -> pb.KindDrop | None:
    return None if worst is None else pb.KindDrop(kind=worst.kind, drop=worst.drop)


def _kind_from_wire(message: pb.PlanAccuracy | pb.CostLine) -> KindDrop | None:
    if not message.HasField("worst_kind"):
        return None
    check_line("kind", message.worst_kind.kind, MAX_KIND_CHARS)
    return KindDrop(message.worst_kind.kind, message.worst_kind.drop)


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
    table: PlanTable, *, cloud_node: str, cloud_address: str, standby: Sequence[str] = (), problem: str = ""
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
        lines=[
            pb.CostLine(
                plan=str(line.plan),
                cloud=line.cloud,
                worst_kind=_kind_to_wire(line.worst_kind),
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
    lines = (
        CostLine(
            plan=Plan.parse(line.plan),
            cloud=line.cloud,
            worst_kind=_kind_from_wire(line),
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
    "accuracy_drop": 1.0,
    "token_bytes": MAX_BYTES,
    "cloud_rtt_s": MAX_SECONDS,
    "leak": 1.0,
}
"""What each number of a line may be at most."""


def _times(seconds: Mapping[Cut, float]) -> list[pb.CutTime]:
    return [pb.CutTime(cut=str(cut), seconds=value) for cut, value in seconds.items()]


def _by_cut(times: Sequence[pb.CutTime]) -> dict[Cut, float]:
    check_count("cuts", times, MAX_CUTS)
    check_numbers("A profile's time of a cut", (t.seconds for t in times), MAX_SECONDS)
    return {Cut.parse(t.cut): t.seconds for t in times}


def _by_coding(costs: Sequence[pb.CodingCost]) -> dict[tuple[Cut, str], pb.CodingCost]:
    check_count("cuts and levels", costs, MAX_CODINGS)
    check_numbers("A profile's time of a level", (c.seconds for c in costs), MAX_SECONDS)
    check_numbers(
        "A profile's size of a level", (size for c in costs for size in (c.payload_bytes, c.token_bytes)), MAX_BYTES
    )
    check_numbers("A profile's leak of a level", (c.leak for c in costs), 1.0)
    return {(Cut.parse(c.cut), parse_level(c.level)): c for c in costs}
