"""Caches profiles on disk (splitvlm.profiling.cache) and renews them while a node has nothing else to do.

A start takes the cached profile as long as the machine, the model and the libraries are the same, however busy the machine is
at that moment. Behind requests a renewal measures again, a step at a time, and only where nobody asked anything for QUIET_S.
What it finds replaces the cached profile where two measurements agree with each other and not with it: one alone may have met
other work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import torch

from splitvlm.bundle import Bundle
from splitvlm.bundle.leaks import leaks_of
from splitvlm.codec.codec import Codec
from splitvlm.domain import FULL, IMAGE, Cut
from splitvlm.model.packed_linear import can_pack
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.planning.costs import CloudProfile, DeviceProfile
from splitvlm.profiling.cache import cached, store
from splitvlm.profiling.measuring import PICTURES, Steps, cloud_stage_steps, device_steps, profile_cloud, profile_device
from splitvlm.rpc.profiles import (
    cloud_profile_from_wire,
    cloud_profile_to_wire,
    device_profile_from_wire,
    device_profile_to_wire,
)
from splitvlm.settings import ModelChoice
from splitvlm.variants.folder import Variant
from splitvlm.wire.v1 import profiles_pb2

P = TypeVar("P", DeviceProfile, CloudProfile)
T = TypeVar("T")
QUIET_S = 5.0  # without a request, before a renewal goes on
ALIKE = 1.3  # medians of an idle machine differ by a tenth; a busy core makes half as long again
SHORT_S = 0.002  # times that differ by less are alike: no plan is chosen by them
_log = logging.getLogger("splitvlm.profiling")


class ModelThread(Protocol):
    """Runs a node's model in one thread."""

    @property
    def jobs(self) -> int:
        """Returns how many jobs were begun, steps of a measurement included."""

    @property
    def in_work(self) -> bool:
        """Tells whether a job runs or waits."""

    async def measure(self, step: Callable[[], T]) -> T:
        """Runs one step in turn with the other jobs."""


@dataclass(frozen=True, slots=True)
class CachedProfile(Generic[P]):
    """Holds a profile, and how it is measured anew. `steps` is None where it was measured just now, or cannot be by itself."""

    profile: P
    steps: Callable[[], Steps[P]] | None
    store: Callable[[P], None]


def device_profile_to_bytes(profile: DeviceProfile) -> bytes:
    """Returns the profile as a serialised `DeviceProfile` message, which is how it is cached and sent."""
    return device_profile_to_wire(profile).SerializeToString()


def device_profile_from_bytes(data: bytes) -> DeviceProfile:
    """Reads a serialised `DeviceProfile`. Raises what a malformed message raises."""
    return device_profile_from_wire(profiles_pb2.DeviceProfile.FromString(data))


def cached_device_profile(
    part: DevicePart, cuts: tuple[Cut, ...], bundle: Bundle, model: ModelChoice, variant: Variant | None = None
) -> CachedProfile[DeviceProfile]:
    """Returns the profile of one form of this device's part, by default the model's own. The leaks in it are today's."""
    codec = variant.codec(bundle) if variant else bundle.codec
    leaks = variant.leaks(bundle) if variant else bundle.leaks
    form = {"variant": variant.hash} if variant else {}
    facts, measured_now = facts_of(part, cuts, codec, model) | form, []

    def measure() -> DeviceProfile:
        measured_now.append(True)
        return profile_device(part, cuts, bundle, variant)

    profile = cached(
        "device-profile",
        facts,
        measure,
        device_profile_to_bytes,
        lambda data: _of_cuts(device_profile_from_bytes(data), cuts),
    )
    return CachedProfile(
        replace(profile, variant=variant.name if variant else FULL).with_leaks(leaks_of(profile.plans, leaks)),
        None if measured_now else lambda: device_steps(part, cuts, bundle, variant),
        lambda renewed: store("device-profile", facts, device_profile_to_bytes(renewed)),
    )


def cached_cloud_profile(
    part: CloudPart, cuts: tuple[Cut, ...], codec: Codec, model: ModelChoice, variants: Collection[str] = ()
) -> CachedProfile[CloudProfile]:
    """Returns the profile of this cloud node, which serves devices in the model's own form and in those of `variants`.

    One that serves no pictures cannot measure its stages anew without the lower part.
    """
    facts, measured_now = facts_of(part, cuts, codec, model), []

    def measure() -> CloudProfile:
        measured_now.append(True)
        return profile_cloud(part, cuts, codec, model)

    profile = cached(
        "cloud-profile", facts, measure, _cloud_to_bytes, lambda data: _of_cuts(_cloud_from_bytes(data), cuts)
    )

    profile = replace(profile, variants=frozenset({FULL, *variants}))
    return CachedProfile(
        profile,
        None if measured_now or IMAGE not in cuts else lambda: cloud_stage_steps(part, profile),
        lambda renewed: store("cloud-profile", facts, _cloud_to_bytes(renewed)),
    )


async def renew(
    old: CachedProfile[P],
    thread: ModelThread,
    changed: Callable[[P], None],
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Measures a cached profile anew while the thread is quiet; calls `changed` with the new one where it differs."""
    if old.steps is None:
        return
    try:
        first = await _in_quiet(old.steps, thread, pause)
        if alike(old.profile, first):
            _log.info("the profile was measured anew and is as it was")
            return
        second = await _in_quiet(old.steps, thread, pause)
    except Exception:  # noqa: BLE001  whatever ends a measurement, the node goes on serving by the cached one
        _log.exception("the profile could not be measured anew: the cached one stays")
        return
    if alike(first, second) and not alike(old.profile, second):
        _log.info("the profile differs from the cached one, which it replaces")
        await asyncio.to_thread(old.store, second)
        changed(second)


async def _in_quiet(
    make: Callable[[], Steps[P]], thread: ModelThread, pause: Callable[[float], Awaitable[object]]
) -> P:
    steps = make()
    await _quiet(thread, pause)
    while True:
        begun = thread.jobs
        pause_s, ended = await thread.measure(lambda: _advanced(steps))
        if ended:
            return ended[0]
        await pause(pause_s)
        if thread.in_work or thread.jobs != begun + 1:
            await _quiet(thread, pause)


async def _quiet(thread: ModelThread, pause: Callable[[float], Awaitable[object]]) -> None:
    """Returns when nothing was asked of the thread for QUIET_S."""
    while True:
        begun = thread.jobs
        await pause(QUIET_S)
        if not thread.in_work and thread.jobs == begun:
            return


def _advanced(steps: Steps[P]) -> tuple[float, list[P]]:
    """Does one step. Returns how long to pause after it (s), and the result where it was the last."""
    try:
        return next(steps), []
    except StopIteration as end:
        return 0.0, [end.value]


def alike(first: DeviceProfile | CloudProfile, second: DeviceProfile | CloudProfile) -> bool:
    """Tells whether two profiles are those of the same machine under the same load, for all that one can tell."""
    return _times_alike(first.cuts, second.cuts) and _times_alike(first.token_s, second.token_s)


def _times_alike(first_s: Mapping[Cut, float], second_s: Mapping[Cut, float]) -> bool:
    pairs = [(seconds, second_s[cut]) for cut, seconds in first_s.items() if cut in second_s]
    return all(max(pair) <= ALIKE * min(pair) + SHORT_S for pair in pairs)


def _of_cuts(profile: P, cuts: tuple[Cut, ...]) -> P:
    """Raises ValueError for the profile of other cuts."""
    if set(profile.cuts) != set(cuts):
        raise ValueError("it has other cuts")
    return profile


def _cloud_to_bytes(profile: CloudProfile) -> bytes:
    return cloud_profile_to_wire(profile).SerializeToString()


def _cloud_from_bytes(data: bytes) -> CloudProfile:
    return cloud_profile_from_wire(profiles_pb2.CloudProfile.FromString(data))


def facts_of(part: DevicePart | CloudPart, cuts: tuple[Cut, ...], codec: Codec, model: ModelChoice) -> dict[str, Any]:
    """Returns what a profile depends on beside the machine and its libraries."""
    device = torch.cuda.get_device_name(part.device) if part.device.type == "cuda" else part.device.type
    return {
        "weights": part.spec.weights_hash,
        "processor": part.spec.processor_hash,
        "codec": codec.hash,
        "device": device,
        "dtype": model.dtype,
        "threads": torch.get_num_threads(),
        "numpy_threads": 1,  # what was measured with more is another machine's
        "cuts": [str(cut) for cut in cuts],
        "pictures": PICTURES,
        "packed": can_pack(part.model.dtype),
    }
