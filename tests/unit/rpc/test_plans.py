"""Planning's values cross the wire unchanged, and nonsense from a peer is refused."""

import math

import pytest

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.planning.costs import CloudProfile, CostLine, DeviceProfile, cost_lines
from splitvlm.planning.table import PlanLimits, PlanTable
from splitvlm.rpc import plans
from splitvlm.wire.v1 import control_pb2 as pb

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
TABLE = PlanTable(7, cost_lines(DEVICE_PROFILE, CLOUD_PROFILE))


def test_profiles_cross_unchanged() -> None:
    assert plans.device_profile_from_wire(plans.device_profile_to_wire(DEVICE_PROFILE)) == DEVICE_PROFILE
    assert plans.cloud_profile_from_wire(plans.cloud_profile_to_wire(CLOUD_PROFILE)) == CLOUD_PROFILE


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


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_a_peer_cannot_report_an_impossible_time(seconds: float) -> None:
    with pytest.raises(UsageError, match="profile"):
        plans.cloud_profile_from_wire(pb.CloudProfile(cuts=[pb.CutTime(cut="tokens", seconds=seconds)]))


def test_a_peer_cannot_report_an_unknown_cut() -> None:
    with pytest.raises(UsageError, match="is not a cut"):
        plans.device_profile_from_wire(pb.DeviceProfile(cuts=[pb.CutTime(cut="x" * 50, seconds=1)]))


def test_a_lines_cloud_and_its_distance_cross() -> None:
    line = CostLine(Plan.parse("tokens/int4"), 0.1, 0.0, 100, 0.0, 0.0, 0.0, 0.0, 1, 0, 0, 0.0, 0, "far", 0.08)
    message = plans.table_to_wire(PlanTable(3, (line,)), cloud_node="far", cloud_address="127.0.0.1:1")
    assert plans.table_from_wire(message).lines == (line,)
