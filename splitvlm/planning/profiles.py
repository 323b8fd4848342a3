"""Profiles are what both sides of one model measured, as a value: plans and simulations are made from it without the nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from splitvlm.domain import Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.planning.costs import CloudProfile, CostLine, DeviceProfile, cost_lines
from splitvlm.planning.kinds import AccuracyDrop

AccuracySource = Literal["measured", "borrowed", "none"]


@dataclass(frozen=True, slots=True)
class Profiles:
    """Holds what both sides measured for one model, and on which machines. `accuracy` holds drops."""

    model: str
    machine: str
    source: str
    devices: tuple[DeviceProfile, ...]  # one a variant of the device's part
    clouds: tuple[CloudProfile, ...]  # of which at most one serves a variant
    accuracy: Mapping[Plan, AccuracyDrop] = field(default_factory=dict)
    accuracy_source: AccuracySource = "none"  # `borrowed`: another model's, at the same level and kind of cut
    sizes: Mapping[Plan, tuple[int, ...]] = field(default_factory=dict)  # sampled payload bytes over pictures, rising

    def lines(self) -> tuple[CostLine, ...]:
        """Returns a cost line for each plan that both sides measured."""
        return lines_of_variants(self.devices, self.clouds, self.accuracy)


def lines_of_variants(
    devices: Iterable[DeviceProfile], clouds: Sequence[CloudProfile], accuracy: Mapping[Plan, AccuracyDrop]
) -> tuple[CostLine, ...]:
    """Returns the cost lines of all variants of a device, each with the cloud profile that serves it."""
    lines: list[CostLine] = []
    for device in devices:
        cloud = next((cloud for cloud in clouds if device.variant in cloud.variants), None)
        lines += cost_lines(device, cloud, accuracy)
    return tuple(lines)


def scaled(profiles: Profiles, *, device_slowdown: float, cloud_speedup: float) -> Profiles:
    """Returns the profiles that a device so many times slower and a cloud so many times faster would have measured."""
    if device_slowdown <= 0 or cloud_speedup <= 0:
        raise UsageError("A slow-down and a speed-up are above 0.", advice="1 leaves the profile as it was measured.")
    return replace(
        profiles,
        devices=tuple(slowed(device, device_slowdown) for device in profiles.devices),
        clouds=tuple(_sped_up(cloud, cloud_speedup) for cloud in profiles.clouds),
    )


def slowed(device: DeviceProfile, factor: float) -> DeviceProfile:
    """Returns the profile that a device so many times slower would have measured."""
    return replace(
        device,
        cuts=_times(device.cuts, factor),
        coding={key: (factor * seconds, size) for key, (seconds, size) in device.coding.items()},
        token_s=_times(device.token_s, factor),
    )


def _sped_up(cloud: CloudProfile, factor: float) -> CloudProfile:
    return replace(
        cloud,
        cuts=_times(cloud.cuts, 1 / factor),
        coding={key: seconds / factor for key, seconds in cloud.coding.items()},
        token_s=_times(cloud.token_s, 1 / factor),
    )


def _times(seconds: Mapping[Cut, float], factor: float) -> dict[Cut, float]:
    return {cut: factor * value for cut, value in seconds.items()}
