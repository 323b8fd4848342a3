"""Profiles and measured accuracies to and from their one serialisation (proto/splitvlm/wire/v1/profiles.proto).

Nodes send it and keep it between their starts, tools write it to files. It is checked here, once, where it enters: cuts and
plans are parsed, nothing stands twice, figures are there and within bounds. Raises UsageError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from splitvlm.domain import Cut, Plan, parse_level, parse_variant
from splitvlm.errors import UsageError
from splitvlm.planning.costs import CloudProfile, Coding, DeviceProfile
from splitvlm.planning.kinds import AccuracyDrop, KindDrop
from splitvlm.rpc.wire_checks import (
    MAX_BYTES,
    MAX_CODINGS,
    MAX_CUTS,
    MAX_KIND_CHARS,
    MAX_SECONDS,
    MAX_VARIANTS,
    check_count,
    check_line,
    check_numbers,
)
from splitvlm.wire.v1 import profiles_pb2 as pb

K = TypeVar("K")
V = TypeVar("V")


def device_profile_to_wire(profile: DeviceProfile) -> pb.DeviceProfile:
    """Returns the message of a device's profile: times in seconds, sizes in bytes, leaks where measured."""
    return pb.DeviceProfile(
        variant=profile.variant,
        cuts=_times(profile.cuts),
        coding=[
            pb.CodingCost(
                cut=str(cut),
                level=level,
                seconds=seconds,
                payload_bytes=size,
                token_bytes=profile.token_bytes.get((cut, level)),
                leak=profile.leak.get((cut, level)),
            )
            for (cut, level), (seconds, size) in profile.coding.items()
        ],
        tokens=_times(profile.token_s),
        memory=[pb.CutBytes(cut=str(cut), bytes=size) for cut, size in profile.memory_bytes.items()],
    )


def device_profile_from_wire(message: pb.DeviceProfile) -> DeviceProfile:
    """Returns the profile in a message. Raises UsageError for absent figures, numbers, cuts or counts out of bounds."""
    coding = _by_coding(message.coding, "seconds", "payload_bytes")
    check_count("cuts with memory", message.memory, MAX_CUTS)
    check_numbers("memory", (row.bytes for row in message.memory), MAX_BYTES)
    return DeviceProfile(
        variant=parse_variant(message.variant),
        cuts=_by_cut(message.cuts),
        coding={key: (row.seconds, row.payload_bytes) for key, row in coding.items()},
        token_s=_by_cut(message.tokens),
        memory_bytes=_once((Cut.parse(row.cut), _whole(row, "bytes").bytes) for row in message.memory),
        token_bytes={key: row.token_bytes for key, row in coding.items() if row.HasField("token_bytes")},
        leak={key: row.leak for key, row in coding.items() if row.HasField("leak")},
    )


def cloud_profile_to_wire(profile: CloudProfile) -> pb.CloudProfile:
    """Returns the message of a cloud node's profile: times in seconds."""
    return pb.CloudProfile(
        variants=sorted(profile.variants),
        cuts=_times(profile.cuts),
        coding=[
            pb.CodingCost(cut=str(cut), level=level, seconds=seconds)
            for (cut, level), seconds in profile.coding.items()
        ],
        tokens=_times(profile.token_s),
        queue_s=profile.queue_s,
    )


def cloud_profile_from_wire(message: pb.CloudProfile) -> CloudProfile:
    """Returns the profile in a message. Raises UsageError for absent figures, numbers, cuts or counts out of bounds."""
    check_numbers("queue_s", [message.queue_s], MAX_SECONDS)
    check_count("variants", message.variants, MAX_VARIANTS)
    if not message.variants:
        raise UsageError("A cloud profile names no variant that it serves.")
    return CloudProfile(
        variants=frozenset(map(parse_variant, message.variants)),
        cuts=_by_cut(message.cuts),
        coding={key: row.seconds for key, row in _by_coding(message.coding, "seconds").items()},
        token_s=_by_cut(message.tokens),
        queue_s=message.queue_s,
    )


def device_profiles_from_wire(messages: Sequence[pb.DeviceProfile]) -> tuple[DeviceProfile, ...]:
    """Returns the profiles of a device, each of another variant."""
    check_count("device profiles", messages, MAX_VARIANTS)
    check_count("cuts and levels", [row for message in messages for row in message.coding], MAX_CODINGS)
    profiles = tuple(map(device_profile_from_wire, messages))
    _once((profile.variant, profile) for profile in profiles)
    return profiles


def cloud_profiles_from_wire(messages: Sequence[pb.CloudProfile]) -> tuple[CloudProfile, ...]:
    """Returns the profiles of a cloud node, none of which serves a variant that another one serves."""
    check_count("cloud profiles", messages, MAX_VARIANTS)
    check_count("cuts and levels", [row for message in messages for row in message.coding], MAX_CODINGS)
    profiles = tuple(map(cloud_profile_from_wire, messages))
    _once((variant, profile) for profile in profiles for variant in profile.variants)
    return profiles


def accuracy_to_wire(accuracy: Mapping[Plan, AccuracyDrop]) -> list[pb.PlanAccuracy]:
    """Returns a message for each plan whose answers were measured."""
    return [
        pb.PlanAccuracy(plan=str(plan), drop=drop.mean, worst_kind=kind_to_wire(drop.worst_kind))
        for plan, drop in accuracy.items()
    ]


def accuracy_from_wire(rows: Sequence[pb.PlanAccuracy]) -> dict[Plan, AccuracyDrop]:
    """Returns the measured drops by plan. Raises UsageError for unknown plans or numbers out of bounds."""
    check_count("measured drops", rows, MAX_CODINGS)
    return _once((Plan.parse(row.plan), AccuracyDrop(_whole(row, "drop").drop, kind_from_wire(row))) for row in rows)


def sizes_to_wire(sizes: Mapping[Plan, Sequence[int]]) -> list[pb.PlanSizes]:
    """Returns a message for each plan whose payloads were sampled, in bytes."""
    return [pb.PlanSizes(plan=str(plan), payload_bytes=num_bytes) for plan, num_bytes in sizes.items()]


def sizes_from_wire(rows: Sequence[pb.PlanSizes]) -> dict[Plan, tuple[int, ...]]:
    """Returns the sampled payload bytes by plan. Raises UsageError for unknown plans or numbers out of bounds."""
    check_count("plans with sizes", rows, MAX_CODINGS)
    check_numbers("A size of a plan", (num_bytes for row in rows for num_bytes in row.payload_bytes), MAX_BYTES)
    return _once((Plan.parse(row.plan), tuple(row.payload_bytes)) for row in rows)


def kind_to_wire(worst: KindDrop | None) -> pb.KindDrop | None:
    """Returns the message of the kind that loses most; None where it is unknown."""
    return None if worst is None else pb.KindDrop(kind=worst.kind, drop=worst.drop)


def kind_from_wire(message: Message) -> KindDrop | None:
    """Returns the worst kind of a PlanAccuracy or a CostLine; None, unknown, where it has none."""
    if not message.HasField("worst_kind"):
        return None
    worst: pb.KindDrop = message.worst_kind  # type: ignore[attr-defined]
    check_line("kind", worst.kind, MAX_KIND_CHARS)
    return KindDrop(worst.kind, _whole(worst, "drop").drop)


def _times(seconds: Mapping[Cut, float]) -> list[pb.CutTime]:
    return [pb.CutTime(cut=str(cut), seconds=value) for cut, value in seconds.items()]


def _by_cut(times: Sequence[pb.CutTime]) -> dict[Cut, float]:
    check_count("cuts", times, MAX_CUTS)
    check_numbers("A profile's time of a cut", (row.seconds for row in times), MAX_SECONDS)
    return _once((Cut.parse(row.cut), _whole(row, "seconds").seconds) for row in times)


def _by_coding(costs: Sequence[pb.CodingCost], *figures: str) -> dict[Coding, pb.CodingCost]:
    """Returns the rows by cut and level; each has the named figures."""
    check_count("cuts and levels", costs, MAX_CODINGS)
    check_numbers("A profile's time of a level", (row.seconds for row in costs), MAX_SECONDS)
    check_numbers(
        "A profile's size of a level",
        (size for row in costs for size in (row.payload_bytes, row.token_bytes)),
        MAX_BYTES,
    )
    check_numbers("A profile's leak of a level", (row.leak for row in costs), 1.0)
    return _once(((Cut.parse(row.cut), parse_level(row.level)), _whole(row, *figures)) for row in costs)


M = TypeVar("M", bound=Message)


def _whole(row: M, *figures: str) -> M:
    """Returns the row, which has all of these figures: what is absent is unknown, and no row is made of unknowns."""
    absent = [name for name in figures if not row.HasField(name)]
    if absent:
        raise UsageError(f"A {row.DESCRIPTOR.name} lacks {' and '.join(absent)}.")
    return row


def _once(rows: Iterable[tuple[K, V]]) -> dict[K, V]:
    """Returns the rows by their keys, each of which stands once."""
    table: dict[K, V] = {}
    for key, value in rows:
        if key in table:
            told = "/".join(map(str, key)) if isinstance(key, tuple) else str(key)
            raise UsageError(f"{told} stands twice.")
        table[key] = value
    return table
