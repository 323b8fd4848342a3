"""The report needs nothing outside itself, and shows every contender."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.simulator.console import show, stem
from orchestrator.simulator.html_report import COLUMNS, by_changes, write_report
from orchestrator.simulator.run import compare
from orchestrator.simulator.scenario import Scenario
from splitvlm import settings
from splitvlm.errors import UsageError

EXAMPLES = Path(__file__).parents[3] / "examples"


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


def test_the_page_begins_with_its_conclusion_and_explains_its_columns(comparison, tmp_path):
    *_, page = write_report([comparison], tmp_path, stem)
    text = page.read_text("utf-8")
    body = text[text.index("<body>") :]
    assert body.index("Conclusion") < body.index("All times on this page") < body.index("<img")
    assert "Take " in text
    for column in COLUMNS:
        if column.head != "late":  # this scenario has no deadline
            assert f">{column.head}</th>" in text
        assert f"<dt>{column.head}</dt><dd>" in text
    assert "@media (max-width" in text


def test_what_a_scenario_says_is_text_on_the_page_and_never_markup(comparison, tmp_path):
    hostile = replace(comparison, notes=("<script>alert('x')</script> & \"more\"",), scenario="</title><b>")
    *_, page = write_report([hostile], tmp_path, stem)
    text = page.read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "<title>Simulation: &lt;/title&gt;&lt;b&gt;</title>" in text


def test_figures_that_nobody_can_read_are_not_there(comparison, tmp_path):
    huge = replace(comparison.summaries[1], regret=40.29, accuracy_drop=-1e-9)
    zero = replace(comparison.summaries[2], regret=-1e-12)
    told = replace(comparison, summaries=(comparison.summaries[0], huge, zero, *comparison.summaries[3:]))
    *_, page = write_report([told], tmp_path, stem)
    console = Console(file=io.StringIO(), width=120)
    show(told, console)
    for text in (page.read_text("utf-8"), console.file.getvalue()):
        assert "41.3 x" in text
        assert "-0.0" not in text
        assert "4029" not in text


def test_a_drop_that_nobody_measured_is_shown_as_unknown(comparison, tmp_path):
    summaries = tuple(replace(summary, accuracy_drop=None) for summary in comparison.summaries)
    *_, page = write_report([replace(comparison, summaries=summaries)], tmp_path, stem)
    text = page.read_text("utf-8")
    assert text.count(">unknown</td>") >= len(summaries)
    assert "an unknown number of points of accuracy lost" in text


def test_traces_on_which_plans_change_come_first(comparison):
    moving = replace(comparison, trace="b", summaries=tuple(replace(s, switches=9) for s in comparison.summaries))
    still = replace(comparison, trace="a", summaries=tuple(replace(s, switches=0) for s in comparison.summaries))
    assert [each.trace for each in by_changes([still, moving])] == ["b", "a"]


def test_a_folder_that_cannot_be_written_is_named(comparison, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        write_report([comparison], tmp_path / "file" / "out", stem)
