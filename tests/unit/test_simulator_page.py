"""The report needs nothing outside itself, and shows every contender."""

import re
from pathlib import Path

import pytest

from orchestrator.simulator.page import write_report
from orchestrator.simulator.run import compare
from orchestrator.simulator.scenario import Scenario
from orchestrator.simulator.show import stem
from splitvlm import settings
from splitvlm.errors import UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def comparison():
    scenario = settings.load(EXAMPLES / "bench-scenes.yaml", Scenario)
    short = scenario.model_copy(update={"arrivals": scenario.arrivals.model_copy(update={"requests": 40})})
    return next(iter(compare(short, traces=["outage:2mbit@7,5"])))


def test_the_page_stands_alone(comparison, tmp_path):
    *pictures, page = write_report([comparison], tmp_path, stem)
    text = page.read_text("utf-8")
    assert len(pictures) == 3
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert text.count("data:image/png;base64,") == 3
    assert not re.search(r"https?://|<script|<link", text)
    assert "All times on this page are simulated." in text
    for summary in comparison.summaries:
        assert f"<td>{summary.contender}</td>" in text


def test_a_folder_that_cannot_be_written_is_named(comparison, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        write_report([comparison], tmp_path / "file" / "out", stem)
