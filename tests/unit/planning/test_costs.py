"""The cost line: the formula of the design, and which plans have one."""

import math
from dataclasses import replace

import pytest

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.planning.costs import CloudProfile, CostLine, DeviceProfile, cost_lines, nearest_drops
from splitvlm.planning.kinds import AccuracyDrop, KindDrop
from splitvlm.planning.profiles import lines_of_variants

LM2 = Cut.parse("lm:2")


def a_device() -> DeviceProfile:
    return DeviceProfile(
        cuts={IMAGE: 0.01, TOKENS: 0.4, LM2: 0.5, DEVICE: 0.9},
        coding={(IMAGE, "q75"): (0.002, 12_000), (TOKENS, "int4"): (0.003, 3_000), (LM2, "int8"): (0.004, 9_000)},
        token_s={LM2: 0.01, DEVICE: 0.08},
        memory_bytes={IMAGE: 1_000, TOKENS: 5_000, LM2: 7_000, DEVICE: 20_000},
        token_bytes={(LM2, "int8"): 500},
    )


def a_cloud() -> CloudProfile:
    cuts = {IMAGE: 0.1, TOKENS: 0.05, LM2: 0.04}
    coding = {(IMAGE, "q75"): 0.003, (TOKENS, "int4"): 0.001, (LM2, "int8"): 0.002}
    return CloudProfile(cuts=cuts, coding=coding, token_s=dict.fromkeys(cuts, 0.02), queue_s=0.005)


def line_of(text: str) -> CostLine:
    return next(line for line in cost_lines(a_device(), a_cloud()) if line.plan == Plan.parse(text))


def test_a_cut_before_the_language_model_pays_one_round_trip():
    seconds = line_of("tokens/int4").latency_s(uplink_bps=1e6, rtt_s=0.05, n_tokens=10)
    assert math.isclose(seconds, 0.4 + 0.003 + 8 * 3_000 / 1e6 + 0.05 + 0.001 + 0.005 + 0.05 + 10 * 0.02)


def test_a_cut_in_the_language_model_pays_a_round_trip_and_bytes_for_each_token():
    seconds = line_of("lm:2/int8").latency_s(uplink_bps=1e6, rtt_s=0.05, n_tokens=10)
    sent_s = 8 * (9_000 + 10 * 500) / 1e6
    assert math.isclose(seconds, 0.5 + 0.004 + sent_s + 11 * 0.05 + 0.002 + 0.005 + 0.04 + 10 * (0.01 + 0.02))


def test_the_device_alone_does_not_know_the_link():
    line = line_of("device")
    assert line.latency_s(1.0, 100.0, 10) == line.latency_s(1e9, 0.0, 10) == pytest.approx(0.9 + 10 * 0.08)


def test_the_first_token_comes_out_of_prefill():
    line = line_of("tokens/int4")
    assert line.first_token_s(1e6, 0.05) == line.latency_s(1e6, 0.05, 0)


def test_without_a_cloud_only_the_device_is_left():
    assert [line.plan for line in cost_lines(a_device(), None)] == [Plan.parse("device")]


def test_a_plan_needs_both_sides():
    cloud = CloudProfile(cuts={TOKENS: 0.05}, coding={(TOKENS, "int8"): 0.001}, token_s={})
    assert [line.plan.cut for line in cost_lines(a_device(), cloud)] == [DEVICE]


def test_accuracy_drops_are_those_of_the_plans():
    drop = {Plan.parse("tokens/int4"): AccuracyDrop(0.003)}
    drops = {str(line.plan): line.accuracy_drop for line in cost_lines(a_device(), a_cloud(), drop)}
    assert drops == {"device/none": 0.0, "image/q75": None, "tokens/int4": 0.003, "lm:2/int8": None}


def of_variant(variant: str, accuracy: dict[Plan, AccuracyDrop]) -> dict[str, CostLine]:
    cloud = replace(a_cloud(), variants=frozenset({"full", "w8"}))
    return {str(line.plan): line for line in cost_lines(replace(a_device(), variant=variant), cloud, accuracy)}


def test_a_drop_of_one_variant_says_nothing_about_another() -> None:
    """`tokens/int4@w8` got 0.0, the best of all, where `full` had lost a tenth of its answers."""
    full = {Plan.parse("tokens/int4"): AccuracyDrop(0.1)}
    line = of_variant("w8", full)["tokens/int4@w8"]
    assert (line.accuracy_drop, line.worst_kind) == (None, None)
    assert nearest_drops([line.plan], full) == {}
    assert of_variant("full", full)["tokens/int4"].accuracy_drop == 0.1
    both = full | {Plan.parse("tokens/int4@w8"): AccuracyDrop(0.2), Plan.parse("device@w8"): AccuracyDrop(0.3)}
    lines = of_variant("w8", both)
    assert (lines["tokens/int4@w8"].accuracy_drop, lines["device/none@w8"].accuracy_drop) == (0.2, 0.3)
    assert set(nearest_drops([line.plan for line in lines.values()], both)) == set(both) - set(full)


def test_only_exact_plans_are_known_without_a_measurement() -> None:
    assert [Plan.parse(text).is_exact for text in ("tokens/lossless", "image/lossless", "device")] == [True] * 3
    inexact = ("tokens/int8", "tokens/lossless@w8", "device@w8", "tokens/none")
    assert [Plan.parse(text).is_exact for text in inexact] == [False] * 4
    assert line_of("device").worst_kind == KindDrop("any", 0.0)
    assert of_variant("w8", {})["device/none@w8"].accuracy_drop is None


def test_a_leak_that_nobody_measured_is_unknown_and_the_device_leaks_nothing() -> None:
    device = a_device().with_leaks({Plan.parse("tokens/int4"): 0.25, Plan.parse("image/q75@w8"): 0.5})
    leaks = {str(line.plan): line.leak for line in cost_lines(device, a_cloud())}
    assert leaks == {"device/none": 0.0, "image/q75": None, "tokens/int4": 0.25, "lm:2/int8": None}


def test_a_cloud_node_serves_the_variants_that_it_names() -> None:
    device = replace(a_device(), variant="w8")
    assert [str(line.plan) for line in cost_lines(device, a_cloud())] == ["device/none@w8"]
    other = replace(a_cloud(), variants=frozenset({"w8"}), cuts={TOKENS: 9.0})
    lines = lines_of_variants([a_device(), device], [a_cloud(), other], {})
    slow = {str(line.plan): line.cloud_s for line in lines if line.plan.cut == TOKENS}
    assert slow == {"tokens/int4": 0.05, "tokens/int4@w8": 9.0}


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -0.1])
def test_a_profile_of_no_time_at_all_is_refused(seconds):
    with pytest.raises(UsageError, match="cloud profile's cuts"):
        CloudProfile(cuts={TOKENS: seconds}, coding={}, token_s={})
