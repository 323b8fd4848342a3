"""Measured profiles of a device and a cloud node as one JSON file, for plans and simulations without the nodes.

Pure: `splitvlm profile` measures and writes, `splitvlm plan` and `splitvlm simulate` read. Everything is checked here on
reading, with file and field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from splitvlm.domain import Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.files.text import read_json
from splitvlm.planning.costs import CloudProfile, Coding, CostLine, DeviceProfile, cost_lines
from splitvlm.planning.kinds import AccuracyDrop, KindDrop
from splitvlm.planning.numbers import number, whole

T = TypeVar("T")
FORMAT = 1
MAX_FILE_BYTES = 16 * 1024 * 1024
_ADVICE = "`splitvlm profile` writes such a file."
AccuracySource = Literal["measured", "borrowed", "none"]


@dataclass(frozen=True, slots=True)
class Profiles:
    """What both sides measured for one model, and where that was. `accuracy` holds drops."""

    model: str
    machine: str
    source: str
    device: DeviceProfile
    cloud: CloudProfile
    accuracy: Mapping[Plan, AccuracyDrop] = field(default_factory=dict)
    accuracy_source: AccuracySource = "none"  # `borrowed`: another model's, at the same level and kind of cut
    sizes: Mapping[Plan, tuple[int, ...]] = field(default_factory=dict)  # sampled payload bytes over pictures, rising

    def lines(self) -> tuple[CostLine, ...]:
        """A cost line for each plan that both sides measured."""
        return cost_lines(self.device, self.cloud, self.accuracy)


def scaled(profiles: Profiles, *, device_slowdown: float, cloud_speedup: float) -> Profiles:
    """Returns the profiles that a device so many times slower and a cloud so many times faster would have measured."""
    if device_slowdown <= 0 or cloud_speedup <= 0:
        raise UsageError("A slow-down and a speed-up are above 0.", advice="1 leaves the profile as it was measured.")
    cloud = profiles.cloud
    return replace(
        profiles,
        device=slowed(profiles.device, device_slowdown),
        cloud=replace(
            cloud,
            cuts=_times(cloud.cuts, 1 / cloud_speedup),
            coding={key: seconds / cloud_speedup for key, seconds in cloud.coding.items()},
            token_s=_times(cloud.token_s, 1 / cloud_speedup),
        ),
    )


def slowed(device: DeviceProfile, factor: float) -> DeviceProfile:
    """Returns the profile that a device so many times slower would have measured."""
    return replace(
        device,
        cuts=_times(device.cuts, factor),
        coding={key: (factor * seconds, size) for key, (seconds, size) in device.coding.items()},
        token_s=_times(device.token_s, factor),
    )


def _times(seconds: Mapping[Cut, float], factor: float) -> dict[Cut, float]:
    return {cut: factor * value for cut, value in seconds.items()}


def write(path: Path, profiles: Profiles) -> None:
    """One JSON object; rows of plans one a line, so that a difference can be read."""
    device, cloud = profiles.device, profiles.cloud
    plans = {f"{cut}/{level}": _coding_row(profiles, (cut, level)) for cut, level in device.coding}
    content = {
        "format": FORMAT,
        "model": profiles.model,
        "machine": profiles.machine,
        "source": profiles.source,
        "accuracy_source": profiles.accuracy_source,
        "device_s": _named(device.cuts),
        "device_token_s": _named(device.token_s),
        "device_memory_bytes": _named(device.memory_bytes),
        "cloud_s": _named(cloud.cuts),
        "cloud_token_s": _named(cloud.token_s),
        "plans": plans,
        "accuracy_drop": {str(plan): drop.mean for plan, drop in profiles.accuracy.items()},
        "worst_kind": {
            str(plan): asdict(drop.worst_kind) for plan, drop in profiles.accuracy.items() if drop.worst_kind
        },
        "sizes": {str(plan): list(sizes) for plan, sizes in profiles.sizes.items()},
    }
    parts = [f"  {json.dumps(key)}: {_shown(value)}" for key, value in content.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def _coding_row(profiles: Profiles, coding: Coding) -> dict[str, float]:
    """What was measured at one cut and level. What was not is left out: unknown is not 0."""
    device, cloud = profiles.device, profiles.cloud
    seconds, size = device.coding[coding]
    row: dict[str, float] = {"encode_s": seconds, "payload_bytes": size}
    others = {"token_bytes": device.token_bytes, "leak": device.leak, "decode_s": cloud.coding}
    return row | {name: table[coding] for name, table in others.items() if coding in table}


def _shown(value: object) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    rows = [f"    {json.dumps(key)}: {json.dumps(_rounded(row))}" for key, row in value.items()]
    return "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return {key: _rounded(row) for key, row in value.items()} if isinstance(value, dict) else value


def _named(values: Mapping[Cut, float]) -> dict[str, float]:
    return {str(cut): value for cut, value in values.items()}


def read(path: Path) -> Profiles:
    """Raises UsageError naming the file and what is wrong in it."""
    raw = read_json(path, "profiles", advice=_ADVICE, most=MAX_FILE_BYTES)
    with _naming(path):
        if raw["format"] != FORMAT:
            raise UsageError(f"It has format {raw['format']}, but this version reads {FORMAT}.")
        plans = _by_plan(raw["plans"], lambda row, name: row)
        source = raw["accuracy_source"]
        if source not in get_args(AccuracySource):
            raise UsageError(f"accuracy_source is '{source}', and none of {', '.join(get_args(AccuracySource))}.")
        return Profiles(
            model=str(raw["model"]),
            machine=str(raw["machine"]),
            source=str(raw["source"]),
            device=_device(raw, plans),
            cloud=CloudProfile(
                cuts=_by_cut(raw["cloud_s"], number),
                coding=_column(plans, "decode_s", number),
                token_s=_by_cut(raw["cloud_token_s"], number),
            ),
            accuracy=_drops(raw["accuracy_drop"], raw.get("worst_kind", {})),
            accuracy_source=source,
            sizes=_by_plan(raw["sizes"], lambda sizes, name: tuple(whole(size, name) for size in sizes)),
        )


def _device(raw: Mapping[str, Any], plans: Mapping[Plan, Mapping[str, Any]]) -> DeviceProfile:
    return DeviceProfile(
        cuts=_by_cut(raw["device_s"], number),
        coding={
            (plan.cut, plan.level): (number(row["encode_s"], "encode_s"), whole(row["payload_bytes"], "payload_bytes"))
            for plan, row in plans.items()
        },
        token_s=_by_cut(raw["device_token_s"], number),
        memory_bytes=_by_cut(raw["device_memory_bytes"], whole),
        token_bytes={coding: size for coding, size in _column(plans, "token_bytes", whole).items() if size},
        leak=_column(plans, "leak", _share),
    )


def _drops(means: Mapping[str, Any], worst: Mapping[str, Mapping[str, Any]]) -> dict[Plan, AccuracyDrop]:
    kinds = {text: KindDrop(str(row["kind"]), row["drop"]) for text, row in worst.items()}
    return {Plan.parse(text): AccuracyDrop(mean, kinds.get(text)) for text, mean in means.items()}


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path} is no profile file: {error.sentence}", advice=_ADVICE) from error
    except KeyError as error:
        raise UsageError(f"{path} lacks {error}.", advice="`splitvlm profile` writes all of it.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no profile file: {error}.", advice=_ADVICE) from error


def _share(value: object, name: str) -> float:
    return number(value, name, most=1.0)


def _by_cut(raw: Mapping[str, Any], check: Callable[[object, str], T]) -> dict[Cut, T]:
    return {Cut.parse(text): check(value, f"A figure of {text}") for text, value in raw.items()}


def _by_plan(raw: Mapping[str, Any], check: Callable[[Any, str], T]) -> dict[Plan, T]:
    return {Plan.parse(text): check(value, f"A figure of {text}") for text, value in raw.items()}


def _column(plans: Mapping[Plan, Mapping[str, Any]], name: str, check: Callable[[object, str], T]) -> dict[Coding, T]:
    """One column of the plans' rows, of those that have it."""
    return {(plan.cut, plan.level): check(row[name], f"{name} of {plan}") for plan, row in plans.items() if name in row}
