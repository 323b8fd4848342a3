"""Profiles and accuracies are serialised without a change, by their variant, and nonsense from a peer is refused."""

import math
from dataclasses import replace

import pytest

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.planning.costs import CloudProfile, DeviceProfile
from splitvlm.planning.kinds import AccuracyDrop, KindDrop
from splitvlm.rpc import profiles
from splitvlm.wire.v1 import profiles_pb2 as pb

LM = Cut.parse("lm:2")
DEVICE_PROFILE = DeviceProfile(
    cuts={IMAGE: 0.0, TOKENS: 0.2, LM: 0.3, DEVICE: 0.9},
    coding={(IMAGE, "jpeg75"): (0.01, 9000), (TOKENS, "int4"): (0.004, 6000), (LM, "int8"): (0.004, 30000)},
    token_s={LM: 0.01, DEVICE: 0.05},
    memory_bytes={IMAGE: 0, TOKENS: 10**7, LM: 2 * 10**7, DEVICE: 3 * 10**7},
    token_bytes={(LM, "int8"): 300},
    leak={(TOKENS, "int4"): 0.25, (LM, "int8"): 0.0},
)
CLOUD_PROFILE = CloudProfile(
    cuts={IMAGE: 0.03, TOKENS: 0.02, LM: 0.01},
    coding={(IMAGE, "jpeg75"): 0.001, (TOKENS, "int4"): 0.001, (LM, "int8"): 0.001},
    token_s={IMAGE: 0.002, TOKENS: 0.002, LM: 0.001},
    queue_s=0.005,
)


def test_profiles_come_back_with_their_variants() -> None:
    devices = (DEVICE_PROFILE, replace(DEVICE_PROFILE, variant="w8", leak={}))
    assert profiles.device_profiles_from_wire([profiles.device_profile_to_wire(each) for each in devices]) == devices
    clouds = (
        replace(CLOUD_PROFILE, variants=frozenset({"full", "w8"})),
        replace(CLOUD_PROFILE, variants=frozenset({"lora"})),
    )
    assert profiles.cloud_profiles_from_wire([profiles.cloud_profile_to_wire(each) for each in clouds]) == clouds


def test_accuracies_come_back_by_plan_and_variant() -> None:
    drops = {
        Plan.parse("tokens/int4"): AccuracyDrop(0.1, KindDrop("cars", 0.02)),
        Plan.parse("tokens/int4@w8"): AccuracyDrop(0.2),
    }
    assert profiles.accuracy_from_wire(profiles.accuracy_to_wire(drops)) == drops


def test_a_variant_stands_once() -> None:
    twice = [profiles.device_profile_to_wire(DEVICE_PROFILE)] * 2
    with pytest.raises(UsageError, match="full stands twice"):
        profiles.device_profiles_from_wire(twice)
    with pytest.raises(UsageError, match="full stands twice"):
        profiles.cloud_profiles_from_wire([profiles.cloud_profile_to_wire(CLOUD_PROFILE)] * 2)
    with pytest.raises(UsageError, match="names no variant"):
        profiles.cloud_profile_from_wire(pb.CloudProfile())
    with pytest.raises(UsageError, match="not the name of a variant"):
        profiles.device_profile_from_wire(pb.DeviceProfile())


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (pb.DeviceProfile(variant="full", cuts=[pb.CutTime(cut="tokens")]), "CutTime lacks seconds"),
        (pb.DeviceProfile(variant="full", memory=[pb.CutBytes(cut="tokens")]), "CutBytes lacks bytes"),
        (
            pb.DeviceProfile(variant="full", coding=[pb.CodingCost(cut="tokens", level="int4", seconds=1)]),
            "CodingCost lacks payload_bytes",
        ),
        (
            pb.DeviceProfile(variant="full", cuts=[pb.CutTime(cut="tokens", seconds=1)] * 2),
            "tokens stands twice",
        ),
        (pb.DeviceProfile(variant="full", cuts=[pb.CutTime(cut="x" * 50, seconds=1)]), "is not a cut"),
    ],
)
def test_a_row_without_its_figure_is_not_taken_for_0(message: pb.DeviceProfile, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        profiles.device_profile_from_wire(message)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_a_peer_cannot_report_an_impossible_time(seconds: float) -> None:
    message = pb.CloudProfile(variants=["full"], cuts=[pb.CutTime(cut="tokens", seconds=seconds)])
    with pytest.raises(UsageError, match="profile"):
        profiles.cloud_profile_from_wire(message)


@pytest.mark.parametrize("leak", [float("nan"), -0.1, 1.5])
def test_a_device_cannot_report_a_leak_that_is_no_share(leak: float) -> None:
    row = pb.CodingCost(cut="image", level="jpeg90", seconds=0, payload_bytes=1, leak=leak)
    with pytest.raises(UsageError, match="leak"):
        profiles.device_profile_from_wire(pb.DeviceProfile(variant="full", coding=[row]))
