"""Cached profiles: a busy machine does not throw them away, and they are renewed in quiet hours, behind every request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud_node.engine.lane import Lane
from cloud_node.engine.recent import RecentMean
from cloud_node.engine.torch_engine import TorchEngine
from edge_node.engine import DeviceEngine
from splitvlm.bundle import open_bundle
from splitvlm.domain import IMAGE, TOKENS, Cut
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.planning.costs import DeviceProfile
from splitvlm.profiling import cached_profiles as module
from splitvlm.profiling import measuring
from splitvlm.profiling.cached_profiles import (
    QUIET_S,
    CachedProfile,
    alike,
    cached_cloud_profile,
    cached_device_profile,
    renew,
)
from splitvlm.profiling.measuring import Steps
from splitvlm.settings import ModelChoice

CUTS = (IMAGE, TOKENS)
MODEL = ModelChoice(name="scenes")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measuring, "PAUSE_S", 0.0)


def profile(tokens_s: float) -> DeviceProfile:
    return DeviceProfile(cuts={TOKENS: tokens_s}, coding={}, token_s={}, memory_bytes={})


class Quiet:
    """A lane without a thread, beside which requests come where a test says so: `requests` in each of its pauses."""

    def __init__(self, requests: Iterator[int]) -> None:
        self.jobs, self.in_work = 0, False
        self.pauses: list[float] = []
        self.steps_after: list[float] = []  # the pause before each step
        self._requests = requests

    async def measure(self, step: Callable[[], Any]) -> Any:
        self.jobs += 1
        self.steps_after.append(self.pauses[-1])
        return step()

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.jobs += next(self._requests, 0)


def known(results: list[float], pause_s: float = 0.1) -> tuple[CachedProfile[DeviceProfile], list[DeviceProfile]]:
    """A cached profile of 1 s, whose measurements of two steps each give these; and what was stored."""
    left, stored = iter(results), []

    def steps() -> Steps[DeviceProfile]:
        yield pause_s
        yield pause_s
        return profile(next(left))

    return CachedProfile(profile(1.0), steps, stored.append), stored


@pytest.mark.parametrize(
    ("results", "renewed"),
    [
        ([1.1], None),  # the same machine
        ([2.0, 2.1], 2.1),  # another load, twice
        ([0.4, 0.42], 0.42),
        ([2.0, 1.05], None),  # other work for a moment
        ([2.0, 9.0], None),
    ],
)
async def test_two_measurements_that_agree_replace_the_kept_one(results: list[float], renewed: float | None) -> None:
    cached, stored = known(results)
    lane, told = Quiet(iter(())), []
    await renew(cached, lane, told.append, lane.pause)
    assert told == stored == ([] if renewed is None else [profile(renewed)])


async def test_a_renewal_waits_for_quiet_and_again_after_each_request() -> None:
    cached, _ = known([1.0], pause_s=0.1)
    lane = Quiet(iter([3, 1, 0, 0, 2, 1, 0]))  # asked in the 1st, 2nd, 5th and 6th pause
    await renew(cached, lane, lambda _: None, lane.pause)
    assert lane.pauses == [QUIET_S, QUIET_S, QUIET_S, 0.1, 0.1, QUIET_S, QUIET_S]
    assert lane.steps_after == [QUIET_S, 0.1, QUIET_S]


async def test_a_measurement_that_fails_leaves_the_kept_one(caplog: pytest.LogCaptureFixture) -> None:
    def steps() -> Steps[DeviceProfile]:
        yield 0.1
        raise ValueError("out of memory")

    lane, told = Quiet(iter(())), []
    await renew(CachedProfile(profile(1.0), steps, told.append), lane, told.append, lane.pause)
    assert not told
    assert "the cached one stays" in caplog.text


async def test_a_profile_of_this_start_is_not_measured_again() -> None:
    lane = Quiet(iter(()))
    await renew(CachedProfile(profile(1.0), None, lambda _: None), lane, lambda _: None, lane.pause)
    assert not lane.pauses


def test_small_times_are_alike() -> None:
    assert alike(profile(0.0001), profile(0.0018))
    assert not alike(profile(0.1), profile(0.2))
    assert alike(profile(1.0), replace(profile(1.0), cuts={TOKENS: 1.2}))


def counted(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """The calls of these functions that measure."""
    calls: list[str] = []

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return real(*arguments)

        return call

    for name in names:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return calls


async def test_a_second_start_measures_nothing_and_renews_behind_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the embedded model, an edge node's engine and a cloud node's."""
    calls = counted(monkeypatch, "profile_device", "profile_cloud", "device_steps", "cloud_stage_steps")
    bundle = open_bundle("scenes")
    codec = bundle.codec
    device, cloud = load_device("scenes", CUTS), load_cloud("scenes", CUTS)
    first = cached_device_profile(device, CUTS, bundle, MODEL), cached_cloud_profile(cloud, CUTS, codec, MODEL)
    assert calls == ["profile_device", "profile_cloud"]
    assert [one.steps for one in first] == [None, None]
    second = cached_device_profile(device, CUTS, bundle, MODEL), cached_cloud_profile(cloud, CUTS, codec, MODEL)
    assert calls == ["profile_device", "profile_cloud"]
    assert second[0].profile.cuts.keys() == first[0].profile.cuts.keys()
    assert second[1].profile.cuts.keys() == {IMAGE, TOKENS}
    waits = RecentMean(1.0)
    engine = DeviceEngine(device, codec)
    cloud_engine = TorchEngine(cloud, 2**26, lambda between: Lane("torch", waits, between=between))
    waited: list[float] = []

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    await renew(second[0], engine, lambda _: None, pause)
    assert "device_steps" in calls
    assert engine.jobs > 5
    assert not engine.in_work
    await renew(second[1], cloud_engine, lambda _: None, pause)
    assert "cloud_stage_steps" in calls
    assert cloud_engine.jobs > 3
    assert QUIET_S in waited
    engine.close()
    cloud_engine.close()


def test_a_kept_profile_of_other_cuts_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from splitvlm.profiling.cache import store

    calls = counted(monkeypatch, "profile_device")
    bundle, device = open_bundle("scenes"), load_device("scenes", [IMAGE])
    facts = module.facts_of(device, (IMAGE,), bundle.codec, MODEL)
    other = DeviceProfile(cuts={Cut.parse("lm:1"): 1.0}, coding={}, token_s={}, memory_bytes={})
    store("device-profile", facts, module.device_profile_to_bytes(other))
    assert set(cached_device_profile(device, (IMAGE,), bundle, MODEL).profile.cuts) == {IMAGE}
    assert calls == ["profile_device"]
