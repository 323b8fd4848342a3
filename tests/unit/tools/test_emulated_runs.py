"""What an emulated run refuses before it starts anything."""

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.simulator.scenario import Scenario
from splitvlm import settings
from splitvlm.errors import UsageError
from splitvlm.tools.emulated_runs import emulate

SCENARIO = settings.load(Path(__file__).parents[3] / "examples" / "simulate-emulated.yaml", Scenario)


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [("devices", {"count": 2}, "one device"), ("arrivals", {"kind": "poisson"}, "camera's rate")],
)
def test_what_cannot_be_emulated_is_refused(section, change, said):
    wrong = SCENARIO.model_copy(update={section: getattr(SCENARIO, section).model_copy(update=change)})
    with pytest.raises(UsageError, match=said):
        emulate(wrong, ["constant:1mbit"], Console())


def test_a_trace_that_is_none_is_refused_first():
    with pytest.raises(UsageError, match="not a rate"):
        emulate(SCENARIO, ["constant:x"], Console())
