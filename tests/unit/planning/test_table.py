"""The plan table: forbidden and dominated plans go, the best of what is allowed stays."""

import math
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, Plan
from splitvlm.errors import ConfigError
from splitvlm.planning.costs import CostLine
from splitvlm.planning.kinds import KindDrop
from splitvlm.planning.limits import PlanLimits, unmeasured
from splitvlm.planning.table import GRID_RTT_S, GRID_TOKENS, build_table, dominates, envelope

CUTS = [IMAGE, *(Cut.parse(f"vision:{k}") for k in (1, 4)), TOKENS, *(Cut.parse(f"lm:{k}") for k in (1, 3)), DEVICE]
LEVELS = ["lossless", "int8", "int4"]
stage_s = st.floats(0, 5, allow_subnormal=False)


@st.composite
def cost_line(draw: st.DrawFn) -> CostLine:
    cut = draw(st.sampled_from(CUTS))
    alone = cut == DEVICE
    return CostLine(
        plan=Plan(cut, "none" if alone else draw(st.sampled_from(LEVELS))),
        device_s=draw(stage_s),
        encode_s=0.0 if alone else draw(stage_s),
        payload_bytes=0 if alone else draw(st.integers(1, 100_000)),
        decode_s=0.0 if alone else draw(stage_s),
        queue_s=0.0 if alone else draw(stage_s),
        cloud_s=0.0 if alone else draw(stage_s),
        token_s=draw(stage_s),
        trips=0 if alone else 1,
        trips_per_token=cut.trips_per_token,
        device_memory_bytes=draw(st.integers(0, 1000)),
        accuracy_drop=draw(st.floats(0, 0.2)),
        token_bytes=draw(st.integers(0, 500)) if cut.trips_per_token else 0,
        leak=0.0 if alone else draw(st.floats(0, 1)),
    )


cost_lines_st = st.lists(cost_line(), min_size=1, max_size=25, unique_by=lambda line: line.plan)
of_the_grid = st.tuples(st.floats(1e3, 1e9), st.sampled_from(GRID_RTT_S), st.sampled_from(GRID_TOKENS))
limits_st = st.builds(
    PlanLimits,
    max_accuracy_drop=st.none() | st.floats(0, 0.2),
    device_memory_bytes=st.none() | st.integers(0, 1000),
    max_leak=st.none() | st.floats(0, 1),
    levels=st.none() | st.frozensets(st.sampled_from(LEVELS)),
    cuts=st.none() | st.frozensets(st.sampled_from(CUTS)),
)


def allowed(line: CostLine, limits: PlanLimits) -> bool:
    """The limits in other words than the code's."""
    cut = line.plan.cut
    return (
        (limits.max_accuracy_drop is None or line.accuracy_drop <= limits.max_accuracy_drop)
        and (limits.device_memory_bytes is None or line.device_memory_bytes <= limits.device_memory_bytes)
        and (limits.max_leak is None or line.leak <= limits.max_leak)
        and (limits.levels is None or cut == DEVICE or line.plan.level in limits.levels)
        and (limits.cuts is None or cut in limits.cuts)
    )


@given(cost_lines_st, limits_st, of_the_grid)
def test_the_table_s_best_is_the_best_of_all_allowed_plans(lines, limits, link):
    permitted = [line for line in lines if allowed(line, limits)]
    if not permitted:
        with pytest.raises(ConfigError, match="No plan is allowed"):
            build_table(lines, limits, 1)
        return
    table = build_table(lines, limits, 1)
    assert set(table.lines) <= set(permitted)
    brute = min(line.latency_s(*link) for line in permitted)
    assert table.best(*link).latency_s(*link) == pytest.approx(brute, rel=1e-9)


@given(cost_lines_st)
def test_no_line_of_the_table_dominates_another(lines):
    kept = build_table(lines, PlanLimits(), 1).lines
    assert not [(a.plan, b.plan) for a in kept for b in kept if a is not b and dominates(a, b)]


@given(cost_lines_st)
def test_the_device_stays_for_the_time_without_a_cloud(lines):
    had = any(line.plan.cut == DEVICE for line in lines)
    assert had == any(line.plan.cut == DEVICE for line in build_table(lines, PlanLimits(), 1).lines)


def a_line(plan: str, *, drop: float = 0.0, memory: int = 10, payload_bytes: int = 100) -> CostLine:
    return CostLine(Plan.parse(plan), 0.1, 0, payload_bytes, 0, 0, 0.1, 0.01, 1, 0, memory, drop, leak=0.25)


def test_of_equal_lines_the_more_accurate_stays():
    lines = [a_line("image/q50", drop=0.02), a_line("image/q75", drop=0.01)]
    assert [str(line.plan) for line in build_table(lines, PlanLimits(), 1).lines] == ["image/q75"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (PlanLimits(max_accuracy_drop=0.001), "max_accuracy_drop = 0.001 forbids every plan.* least drop .* 0.0100"),
        (PlanLimits(device_memory_bytes=5), "device_memory_bytes = 5 forbids every plan.* needs 10 bytes"),
        (PlanLimits(max_leak=0.1), "max_leak = 0.1 forbids every plan.* least leak of any plan is 0.250"),
        (PlanLimits(levels=frozenset({"int8"})), "levels = int8 forbids every plan"),
        (PlanLimits(cuts=frozenset({DEVICE})), "cuts = device forbids every plan"),
        (
            PlanLimits(max_accuracy_drop=0.01, levels=frozenset({"int4"})),
            "image/q75 is forbidden by levels; tokens/int4 is forbidden by max_accuracy_drop",
        ),
    ],
)
def test_when_nothing_is_left_the_limit_is_named(limits, words):
    lines = [a_line("image/q75", drop=0.01), a_line("tokens/int4", drop=0.02, memory=20)]
    with pytest.raises(ConfigError, match=words):
        build_table(lines, limits, 1)


UNKNOWN = CostLine(Plan.parse("image/q75"), 0.1, 0, 100, 0, 0, 0.1, 0.01, 1, 0, 10, None)


@pytest.mark.parametrize(
    ("limit", "command"),
    [
        ("max_accuracy_drop", "splitvlm evaluate MODEL --plans"),
        ("max_kind_drop", "splitvlm evaluate MODEL --plans"),
        ("max_leak", "splitvlm leak MODEL"),
    ],
)
def test_a_limit_forbids_what_is_unknown_and_says_how_it_is_measured(limit: str, command: str) -> None:
    limits = PlanLimits(**{limit: 0.99})
    assert [str(objection) for objection in limits.forbidding(UNKNOWN)] == [
        f"{limit} (unknown: measure it with `{command}`)"
    ]
    assert not PlanLimits(**{limit: 1.0}).forbidding(UNKNOWN)
    with pytest.raises(
        ConfigError, match=rf"{limit} = 0.99 forbids every plan.*1 of 1 are unknown: measure them with `{command}`"
    ):
        build_table([UNKNOWN], limits, 1)
    exact = replace(a_line("tokens/lossless"), worst_kind=KindDrop("any", 0.0))
    assert build_table([UNKNOWN, exact], limits, 1).lines == (exact,)
    assert command in unmeasured([UNKNOWN, exact], limits)
    assert "1 plan is forbidden by" in unmeasured([UNKNOWN, exact], limits)


def test_nothing_is_said_of_plans_that_a_known_figure_forbids() -> None:
    both = replace(UNKNOWN, device_memory_bytes=10)
    assert (
        unmeasured([both, a_line("tokens/int4", drop=0.5)], PlanLimits(max_accuracy_drop=0.1, device_memory_bytes=5))
        == ""
    )


def test_of_equal_lines_one_whose_accuracy_is_known_stays() -> None:
    known = replace(UNKNOWN, plan=Plan.parse("image/q50"), accuracy_drop=0.9)
    assert build_table([UNKNOWN, known], PlanLimits(), 1).lines == (known,)


def test_nothing_measured_is_said_so():
    with pytest.raises(ConfigError, match="There is no plan"):
        build_table([], PlanLimits(), 1)


@given(cost_lines_st, of_the_grid)
def test_the_envelope_has_the_fastest_line_at_every_rate(
    lines: list[CostLine], where: tuple[float, float, int]
) -> None:
    bps, rtt_s, n_tokens = where
    spans = envelope(lines, rtt_s, n_tokens)
    assert [high for high, _ in spans] == sorted((high for high, _ in spans), reverse=True)
    line = [line for high, line in spans if high >= bps][-1]
    least_s = min(line.latency_s(bps, rtt_s, n_tokens) for line in lines)
    assert math.isclose(line.latency_s(bps, rtt_s, n_tokens), least_s, rel_tol=1e-9, abs_tol=1e-9)


def test_a_profile_of_which_every_plan_counts_costs_little() -> None:
    """A peer says how many plans there are: 1,024 on one hull took half a minute, in the orchestrator's event loop."""
    share = [number / 1024 for number in range(1024)]
    lines = [
        CostLine(
            Plan(Cut.parse(f"lm:{number + 1}"), "int4"),
            *(100 * at**2, 0.0, 1 + int(1e9 * (1 - at) ** 2), 0.0, 0.0, 0.0, 0.0, 1, 0, 0, 0.0),
        )
        for number, at in enumerate(share)
    ]
    began_s = time.thread_time()
    assert len(build_table(lines, PlanLimits(), 1).lines) == 1024
    assert time.thread_time() - began_s < 5


def test_what_is_unknown_of_a_variant_is_measured_by_a_command_of_its_own() -> None:
    variant = replace(UNKNOWN, plan=Plan.parse("tokens/int8@pruned"))
    limits = PlanLimits(max_accuracy_drop=0.1, max_leak=0.5)
    told = unmeasured([UNKNOWN, variant], limits)
    for command in (
        "splitvlm evaluate MODEL --plans",
        "splitvlm variant measure DIR",
        "splitvlm leak MODEL --variant DIR",
    ):
        assert f"`{command}`" in told
    assert "evaluate" not in unmeasured([variant], limits)
