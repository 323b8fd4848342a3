"""Planning's values to and from the wire. What a peer sends is checked here, once: cuts are parsed, times are numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from splitvlm.domain import Cut, Plan
from splitvlm.planning.costs import CloudProfile, CostLine, DeviceProfile
from splitvlm.planning.table import Limits, PlanTable, parse_floor
from splitvlm.wire.v1 import control_pb2 as pb


def device_profile_to_wire(profile: DeviceProfile) -> pb.DeviceProfile:
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
    coding = {(Cut.parse(c.cut), c.level): c for c in message.coding}
    return DeviceProfile(
        cuts=_by_cut(message.cuts),
        coding={key: (c.seconds, c.payload_bytes) for key, c in coding.items()},
        token_s=_by_cut(message.tokens),
        memory_bytes={Cut.parse(m.cut): m.bytes for m in message.memory},
        token_bytes={key: c.token_bytes for key, c in coding.items() if c.token_bytes},
        leak={key: c.leak for key, c in coding.items() if c.HasField("leak")},
    )


def cloud_profile_to_wire(profile: CloudProfile) -> pb.CloudProfile:
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
    return CloudProfile(
        cuts=_by_cut(message.cuts),
        coding={(Cut.parse(c.cut), c.level): c.seconds for c in message.coding},
        token_s=_by_cut(message.tokens),
        queue_s=message.queue_s,
    )


def limits_to_wire(limits: Limits) -> pb.PlanLimits:
    floor = limits.privacy_floor
    return pb.PlanLimits(
        device_memory_bytes=limits.device_memory_bytes or 0,
        max_accuracy_drop=limits.max_accuracy_drop,
        privacy_floor=str(floor) if isinstance(floor, Cut) else "",
        cuts=sorted(map(str, limits.cuts or ())),
        levels=sorted(limits.levels or ()),
        max_leak=floor if isinstance(floor, float) else None,
    )


def limits_from_wire(message: pb.PlanLimits) -> Limits:
    return Limits(
        max_accuracy_drop=message.max_accuracy_drop if message.HasField("max_accuracy_drop") else None,
        device_memory_bytes=message.device_memory_bytes or None,
        privacy_floor=message.max_leak if message.HasField("max_leak") else parse_floor(message.privacy_floor),
        levels=frozenset(message.levels) or None,
        cuts=frozenset(map(Cut.parse, message.cuts)) or None,
    )


def table_to_wire(
    table: PlanTable, *, cloud_node: str, cloud_address: str, standby: Sequence[str] = ()
) -> pb.PlanTable:
    return pb.PlanTable(
        version=table.version,
        cloud_node=cloud_node,
        cloud_address=cloud_address,
        standby=standby,
        lines=[
            pb.CostLine(
                **{"plan": str(line.plan), "cloud": line.cloud} | {name: getattr(line, name) for name in _LINE_NUMBERS}
            )
            for line in table.lines
        ],
    )


def table_from_wire(message: pb.PlanTable) -> PlanTable:
    lines = (
        CostLine(plan=Plan.parse(line.plan), cloud=line.cloud, **{name: getattr(line, name) for name in _LINE_NUMBERS})
        for line in message.lines
    )
    return PlanTable(message.version, tuple(lines))


_LINE_NUMBERS = (
    "device_s",
    "encode_s",
    "payload_bytes",
    "decode_s",
    "queue_s",
    "cloud_s",
    "token_s",
    "trips",
    "trips_per_token",
    "device_memory_bytes",
    "accuracy_drop",
    "token_bytes",
    "cloud_rtt_s",
    "leak",
)


def _times(seconds: Mapping[Cut, float]) -> list[pb.CutTime]:
    return [pb.CutTime(cut=str(cut), seconds=value) for cut, value in seconds.items()]


def _by_cut(times: Iterable[pb.CutTime]) -> dict[Cut, float]:
    return {Cut.parse(t.cut): t.seconds for t in times}
