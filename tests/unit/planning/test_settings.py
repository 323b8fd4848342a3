"""One `planning` section, of the edge node and of the simulator; what is wrong in it is named by its key in both."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.settings import EdgeSettings
from orchestrator.simulator.scenario import Scenario
from splitvlm.domain import DEVICE, TOKENS
from splitvlm.errors import ConfigError
from splitvlm.planning.limits import PlanLimits
from splitvlm.planning.policy import Objective, PolicyOptions
from splitvlm.planning.settings import Planning
from splitvlm.settings import Section, parse

SECTION: dict[str, object] = {
    "cuts": ["tokens", "device"],
    "levels": ["int4"],
    "max_accuracy_drop": 0.02,
    "max_kind_drop": None,
    "device_memory_bytes": 1_000,
    "hedging": False,
    "objective": {"latency_weight": 2.0, "energy_weight_per_j": 0.5},
    "deadline_ms": 800,
    "bytes_per_day": 5_000,
}
KINDS = {"edge": (EdgeSettings, {}), "simulate": (Scenario, {"profiles": "p.json"})}


def planning_of(kind: str, section: dict[str, object]) -> Planning:
    settings, needed = KINDS[kind]
    return parse({**needed, "planning": section}, settings, source=f"{kind}.yaml").planning  # type: ignore[return-value, arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_both_read_the_same_section(kind: str) -> None:
    assert SECTION.keys() == Planning.model_fields.keys(), "a key that this test leaves out"
    planning = planning_of(kind, SECTION)
    cuts = frozenset({TOKENS, DEVICE})
    assert planning.limits() == PlanLimits(0.02, None, 1_000, None, frozenset({"int4"}), cuts)
    assert planning.policy_options() == PolicyOptions(
        Objective(2.0, 0.5), hedging=False, deadline_s=0.8, bytes_per_day=5_000
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"deadline": 1}, "planning.deadline is not a known key"),
        ({"objective": {"latency": 1}}, r"planning.objective.*latency is not a known key"),
        ({"objective": "speed"}, "planning.objective"),
        ({"max_kind_drop": 1.5}, "planning.max_kind_drop is 1.5"),
        ({"cuts": ["lm:0"]}, "planning.cuts.0 is 'lm:0'"),
        ({"bytes_per_day": -1}, "planning.bytes_per_day is -1"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(kind: str, section: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        planning_of(kind, section)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"requests": {"deadline_ms": 1}}, "requests.deadline_ms is not a known key"),
        ({"objective": {"latency": 1}}, "objective is not a known key"),
    ],
)
def test_a_scenario_has_no_second_place_for_it(raw: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse({"profiles": "p.json", **raw}, Scenario, source="s.yaml")


def test_a_scenario_limits_leaks_too() -> None:
    scenario = Scenario.model_validate({"profiles": Path("p"), "planning": {"max_leak": 0.5}})
    assert scenario.planning.limits() == PlanLimits(max_kind_drop=0.03, max_leak=0.5)


def test_policies_are_made_anew_only_where_their_options_change() -> None:
    one, other = Planning(cuts=["tokens"]), Planning(levels=["int4"])
    assert one.policy_options() == other.policy_options()
    assert one.policy_options() != Planning(deadline_ms=5).policy_options()
    assert issubclass(Planning, Section)
