"""The simulated policy follows the link down and up again, and its probes count as bytes."""

from dataclasses import replace

import pytest

from orchestrator.simulator.baselines import Adaptive, FixedPlan, Oracle
from orchestrator.simulator.engine import simulate
from orchestrator.simulator.world import World
from splitvlm.domain import Plan
from splitvlm.link.traces import Trace
from splitvlm.planning.costs import CostLine
from splitvlm.planning.policy import PolicyOptions
from splitvlm.planning.table import PlanTable

PICTURE = CostLine(Plan.parse("image/jpeg50"), 0.0, 0.01, 10_000, 0.01, 0.0, 0.02, 0.0, 1, 0, 0, 0.0)
ALONE = CostLine(Plan.parse("device"), 1.0, 0, 0, 0, 0, 0, 0.0, 0, 0, 0, 0.0)
LINES = (PICTURE, ALONE)
PERIOD_S = 3.1


def a_world(trace: Trace, requests: int) -> World:
    arrivals_s = [[PERIOD_S * place for place in range(requests)]]
    return World(trace, "t", LINES, {"": 1}, 0, 0.05, [0.0], arrivals_s, [1.0])


@pytest.mark.parametrize("hedging", [True, False])
def test_the_policy_comes_back_from_the_device(hedging):
    """Fast, 20 kbit/s, fast: two requests or five seconds after each change the answer is where the oracle has it."""
    trace = Trace.of_rates("t", [(60.0, 5e6), (60.0, 2e4), (60.0, 5e6)])
    run = simulate(
        a_world(trace, 58), Adaptive("adaptive", PlanTable(1, LINES), 0, 0.05, PolicyOptions(hedging=hedging))
    )
    for row in run.records():
        settled_s = (row.start_s % 60) - 2 * PERIOD_S
        if settled_s > 0:
            slow = 60 <= row.start_s < 120
            assert (row.plan == "device/none" or row.device_won) == slow, row


def test_the_probes_of_idle_seconds_are_counted():
    adaptive = Adaptive("adaptive", PlanTable(1, LINES), 0, 0.05)
    world = replace(a_world(Trace.constant(1e6), 0), arrivals_s=[[0.0, 30.0]])
    assert simulate(world, adaptive).probe_bytes > 0
    assert simulate(world, FixedPlan(PICTURE)).probe_bytes == 0


def test_a_question_every_three_seconds_costs_a_share_of_its_bytes_for_probes():
    trace = Trace.of_rates("t", [(60.0, 5e6), (60.0, 8e4), (60.0, 5e6)])
    run = simulate(a_world(trace, 200), Adaptive("adaptive", PlanTable(1, LINES), 0, 0.05))
    assert run.probe_bytes <= 0.15 * sum(run.payload_bytes)


def test_the_oracle_takes_the_device_in_an_outage_and_the_cloud_else():
    trace = Trace.of_rates("t", [(4.0, 5e6), (4.0, 0.0)])
    run = simulate(a_world(trace, 40), Oracle(a_world(trace, 40), LINES))
    alone = [row.start_s % 8 for row in run.records() if row.plan == "device/none"]
    assert alone
    assert all(3.9 < phase_s < 7.2 for phase_s in alone)
