"""Limits and tables cross the wire unchanged, what is unknown in them included."""

import pytest

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, Plan
from splitvlm.planning.costs import CostLine, cost_lines
from splitvlm.planning.kinds import KindDrop
from splitvlm.planning.limits import PlanLimits
from splitvlm.planning.table import PlanTable
from splitvlm.rpc import plans
from tests.unit.rpc.test_profiles import CLOUD_PROFILE, DEVICE_PROFILE

LM = Cut.parse("lm:2")
TABLE = PlanTable(7, cost_lines(DEVICE_PROFILE, CLOUD_PROFILE))


@pytest.mark.parametrize(
    "limits",
    [
        PlanLimits(),
        PlanLimits(max_kind_drop=0.03),
        PlanLimits(max_accuracy_drop=0.0, device_memory_bytes=5, max_leak=0.25, levels=frozenset({"int4"})),
        PlanLimits(cuts=frozenset({IMAGE, LM})),
        PlanLimits(max_leak=0.0),
        PlanLimits(max_leak=0.5),
    ],
)
def test_limits_cross_unchanged(limits: PlanLimits) -> None:
    assert plans.limits_from_wire(plans.limits_to_wire(limits)) == limits


def test_a_table_crosses_unchanged() -> None:
    assert len(TABLE.lines) == 4
    assert plans.table_from_wire(plans.table_to_wire(TABLE, cloud_node="c", cloud_address="h:1")) == TABLE


def test_what_is_unknown_crosses_as_unknown() -> None:
    drops = {line.plan: (line.accuracy_drop, line.worst_kind, line.leak) for line in TABLE.lines}
    message = plans.table_to_wire(TABLE, cloud_node="c", cloud_address="h:1")
    crossed = {
        line.plan: (line.accuracy_drop, line.worst_kind, line.leak) for line in plans.table_from_wire(message).lines
    }
    assert crossed == drops
    assert drops[Plan(IMAGE, "jpeg75")] == (None, None, None)
    assert drops[Plan(TOKENS, "int4")] == (None, None, 0.25)
    assert drops[Plan(DEVICE, "none")] == (0.0, KindDrop("any", 0.0), 0.0)


def test_a_lines_cloud_and_its_distance_cross() -> None:
    line = CostLine(Plan.parse("tokens/int4"), 0.1, 0.0, 100, 0.0, 0.0, 0.0, 0.0, 1, 0, 0, 0.0, 0, "far", 0.08)
    message = plans.table_to_wire(PlanTable(3, (line,)), cloud_node="far", cloud_address="127.0.0.1:1")
    assert plans.table_from_wire(message).lines == (line,)
