"""The device's choice where the cloud has cached the picture's prefix, and what its own limits keep from leaving it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge_node.planner import Planner
from edge_node.privacy import EVERYTHING_MAY_LEAVE, PrivacyDoor
from edge_node.settings import EdgePlanning, Privacy
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, IMAGE, TOKENS, Plan
from splitvlm.errors import ConfigError, PrivacyRefused, UsageError
from splitvlm.link.estimator import LinkEstimator
from splitvlm.planning.costs import CostLine
from splitvlm.planning.kinds import NO_LOSS
from splitvlm.planning.table import PlanTable

JPEG, INT8, ALONE = Plan(IMAGE, "jpeg75"), Plan(TOKENS, "int8"), Plan(DEVICE, "none")


def line(plan: Plan, *, device_s: float, payload_bytes: int, cloud_s: float) -> CostLine:
    cloud = int(plan != ALONE)
    return CostLine(
        plan,
        device_s,
        0.001,
        payload_bytes,
        0.001,
        0.0,
        cloud_s,
        0.001,
        cloud,
        0,
        0,
        0.0,
        worst_kind=NO_LOSS.worst_kind,
    )


TABLE = PlanTable(
    1,
    (
        line(JPEG, device_s=0.0, payload_bytes=5_000, cloud_s=0.06),
        line(INT8, device_s=0.1, payload_bytes=3_000, cloud_s=0.03),
        line(ALONE, device_s=0.4, payload_bytes=0, cloud_s=0.0),
    ),
)


def chosen(uplink_bps: float, known: Plan | None) -> Plan | None:
    planner = Planner(EdgePlanning(hedging=False), (IMAGE, TOKENS, DEVICE), Codec(), EVERYTHING_MAY_LEAVE)
    planner.table = TABLE
    estimator = LinkEstimator()
    for now_s in (1.0, 2.0, 3.0):
        estimator.on_rtt(0.02, now_s)
        estimator.on_transfer(20_000, None, 0.02 + 8 * 20_000 / uplink_bps, 0.0, now_s)
    return planner.choose("", estimator.estimate(3.0), True, known).plan


@pytest.mark.parametrize(("uplink_bps", "usual"), [(1e7, JPEG), (2e5, INT8), (2e4, ALONE)])
def test_a_cached_prefix_draws_its_plan(uplink_bps: float, usual: Plan) -> None:
    assert chosen(uplink_bps, None) == usual
    assert chosen(uplink_bps, INT8) == INT8


def test_a_plan_that_the_table_lacks_changes_nothing() -> None:
    assert chosen(1e7, Plan(TOKENS, "int2")) == JPEG
    assert chosen(1e7, JPEG) == JPEG


LEAKS = {JPEG: 1.0, INT8: 0.4}


def guarded(max_leak: float) -> Planner:
    door = PrivacyDoor(Privacy(mode="max_leak", max_leak=max_leak), LEAKS)
    return Planner(EdgePlanning(), (IMAGE, TOKENS, DEVICE), Codec(), door)


def test_what_a_plan_leaks_is_what_the_device_measured_whatever_the_table_says() -> None:
    planner = guarded(0.5)
    planner.table = TABLE  # its lines claim that nothing leaks
    assert planner.table is not None
    assert [str(one.plan) for one in planner.table.lines] == [str(INT8), str(ALONE)]


def test_a_plan_that_was_never_measured_is_in_no_table() -> None:
    planner = guarded(0.99)
    planner.table = PlanTable(1, (line(Plan(TOKENS, "int4"), device_s=0, payload_bytes=1, cloud_s=0), TABLE.lines[2]))
    assert planner.table is not None
    assert [one.plan for one in planner.table.lines] == [ALONE]


@pytest.mark.parametrize(
    ("max_leak", "refused", "why", "allowed"),
    [
        (0.5, "image/jpeg75", "leaks 1.00 of a picture, and privacy.max_leak is 0.5", "tokens/int8"),
        (0.3, "tokens/int8", "leaks 0.40 of a picture, and privacy.max_leak is 0.3", "device"),
        (0.99, "tokens/int4", "privacy.max_leak = 0.99: what it leaks was not measured", "tokens/int8"),
        (0.99, "tokens/int8@quantised", "what it leaks was not measured", "tokens/int8"),
    ],
)
def test_nobody_may_ask_for_a_plan_that_leaks_too_much(max_leak: float, refused: str, why: str, allowed: str) -> None:
    planner = guarded(max_leak)
    with pytest.raises(PrivacyRefused, match=why):
        planner.choose(refused, None, True)
    assert planner.choose(allowed, None, True).plan == Plan.parse(allowed)


def test_a_fixed_plan_is_no_exception() -> None:
    door = PrivacyDoor(Privacy(mode="max_leak", max_leak=0.3), LEAKS)
    with pytest.raises(PrivacyRefused, match="tokens/int8 leaks"):
        Planner(EdgePlanning(fixed_plan="tokens/int8"), (TOKENS, DEVICE), Codec(), door)


def test_a_leak_that_is_no_number_is_not_below_any_limit() -> None:
    door = PrivacyDoor(Privacy(mode="max_leak", max_leak=0.9), {INT8: float("nan")})
    assert not door.allows(INT8)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"levels": ["jpg90"]}, r"planning.levels names jpg90.*jpeg90"),
        ({"levels": ["int4", "int5", "zip"]}, r"planning.levels names int5, zip"),
        ({"levels": ["jpeg90"]}, r"planning.levels leaves no plan.*tokens.*int4"),
        ({"fixed_plan": "tokens/jpg90"}, r"planning.fixed_plan: .*no codec level 'jpg90'"),
        ({"fixed_plan": "lm:2/int8"}, r"planning.fixed_plan: .*does not serve the cut lm:2"),
        ({"fixed_plan": "tokens/int8@small"}, r"planning.fixed_plan: .*no variant small"),
    ],
)
def test_levels_and_plans_that_nothing_here_has_are_refused_by_key(wrong: dict[str, object], words: str) -> None:
    settings = EdgePlanning.model_validate(wrong)
    with pytest.raises(ConfigError, match=words):
        Planner(settings, (TOKENS,), Codec(), EVERYTHING_MAY_LEAVE)
    planner = Planner(EdgePlanning(fixed_plan="tokens/int8"), (TOKENS,), Codec(), EVERYTHING_MAY_LEAVE)
    with pytest.raises(ConfigError, match=words):
        planner.use(settings)
    assert planner.choose("", None, True).plan == INT8


def test_what_nobody_measured_is_in_no_table_under_a_limit_on_it() -> None:
    """By its own limits, whatever the orchestrator sent: three points of any kind unless said otherwise."""
    unknown = replace(TABLE.lines[1], accuracy_drop=None, worst_kind=None)
    table = PlanTable(1, (unknown, TABLE.lines[2]))
    planner = Planner(EdgePlanning(), (IMAGE, TOKENS, DEVICE), Codec(), EVERYTHING_MAY_LEAVE)
    planner.table = table
    assert planner.table is not None
    assert [line.plan for line in planner.table.lines] == [ALONE]
    planner.use(EdgePlanning(max_kind_drop=None))
    assert planner.table.lines == table.lines
    planner.use(EdgePlanning(max_kind_drop=None, max_accuracy_drop=0.5))
    assert [line.plan for line in planner.table.lines] == [ALONE]


def test_a_variant_that_the_node_does_not_have_is_refused_by_name() -> None:
    planner = Planner(EdgePlanning(), (IMAGE, TOKENS, DEVICE), Codec(), EVERYTHING_MAY_LEAVE)
    with pytest.raises(UsageError, match="has no variant w8"):
        planner.choose("tokens/int8@w8", None, True)
