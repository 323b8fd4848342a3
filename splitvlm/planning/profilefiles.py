"""Measured profiles of a device and a cloud node as one JSON file, for plans and simulations without the nodes.

Pure: `splitvlm profile` measures and writes, `splitvlm plan` and `splitvlm simulate` read. Everything is checked here on
reading, with file and field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from splitvlm.domain import Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.planning.costs import CloudProfile, Coding, CostLine, DeviceProfile, cost_lines
from splitvlm.textfiles import read_json

FORMAT = 1
MAX_FILE_BYTES = 16 * 1024 * 1024
AccuracySource = Literal["measured", "borrowed", "none"]


@dataclass(frozen=True, slots=True)
class Profiles:
    """What both sides measured for one model, and where that was. `accuracy` holds drops: 0.01 is one point lost."""

    model: str
    machine: str
    source: str
    device: DeviceProfile
    cloud: CloudProfile
    accuracy: Mapping[Plan, float] = field(default_factory=dict)
    accuracy_source: AccuracySource = "none"  # `borrowed`: another model's, at the same level and kind of cut
    sizes: Mapping[Plan, tuple[int, ...]] = field(default_factory=dict)  # sampled payload bytes over pictures, rising

    def lines(self) -> tuple[CostLine, ...]:
        """A cost line for each plan that both sides measured."""
        return cost_lines(self.device, self.cloud, self.accuracy)


def scaled(profiles: Profiles, *, device_slowdown: float, cloud_speedup: float) -> Profiles:
    """As a device so many times slower and a cloud so many times faster would have measured them. Bytes stay."""
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
    """As a device so many times slower would have measured it."""
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
    plans = {
        f"{cut}/{level}": {
            "encode_s": seconds,
            "payload_bytes": size,
            "token_bytes": device.token_bytes.get((cut, level), 0),
            "leak": device.leak.get((cut, level), 1.0),
            "decode_s": cloud.coding.get((cut, level), 0.0),
        }
        for (cut, level), (seconds, size) in device.coding.items()
    }
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
        "accuracy_drop": {str(plan): drop for plan, drop in profiles.accuracy.items()},
        "sizes": {str(plan): list(sizes) for plan, sizes in profiles.sizes.items()},
    }
    parts = [f"  {json.dumps(key)}: {_shown(value)}" for key, value in content.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


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
    raw = read_json(path, "profiles", advice="`splitvlm profile` writes such a file.", most=MAX_FILE_BYTES)
    with _naming(path):
        if raw["format"] != FORMAT:
            raise UsageError(f"{path} has format {raw['format']}, but this version reads {FORMAT}.")
        plans: dict[Coding, Mapping[str, float]] = {}
        for text, row in raw["plans"].items():
            plan = Plan.parse(text)
            plans[plan.cut, plan.level] = row
        return Profiles(
            model=str(raw["model"]),
            machine=str(raw["machine"]),
            source=str(raw["source"]),
            device=DeviceProfile(
                cuts=_by_cut(raw["device_s"], float),
                coding={key: (float(row["encode_s"]), int(row["payload_bytes"])) for key, row in plans.items()},
                token_s=_by_cut(raw["device_token_s"], float),
                memory_bytes=_by_cut(raw["device_memory_bytes"], int),
                token_bytes={key: int(row["token_bytes"]) for key, row in plans.items() if row.get("token_bytes")},
                leak={key: float(row.get("leak", 1.0)) for key, row in plans.items()},
            ),
            cloud=CloudProfile(
                cuts=_by_cut(raw["cloud_s"], float),
                coding={key: float(row["decode_s"]) for key, row in plans.items()},
                token_s=_by_cut(raw["cloud_token_s"], float),
            ),
            accuracy={Plan.parse(text): float(drop) for text, drop in raw["accuracy_drop"].items()},
            accuracy_source=raw["accuracy_source"],
            sizes={Plan.parse(text): tuple(map(int, sizes)) for text, sizes in raw["sizes"].items()},
        )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise UsageError(f"{path} lacks {error}.", advice="`splitvlm profile` writes all of it.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is no profile file: {error}.", advice="`splitvlm profile` writes one.") from error


def _by_cut(raw: Mapping[str, Any], kind: Callable[[Any], Any]) -> dict[Cut, Any]:
    return {Cut.parse(text): kind(value) for text, value in raw.items()}
