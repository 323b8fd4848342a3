"""The simulator's arithmetic against hand-made cases, and the laws of its comparison."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.simulator.baselines import FixedPlan
from orchestrator.simulator.console import show
from orchestrator.simulator.engine import simulate
from orchestrator.simulator.results import Comparison, percentile, summarise, write_csv, write_json
from orchestrator.simulator.run import compare, lines_of
from orchestrator.simulator.scenario import Scenario
from orchestrator.simulator.world import World
from splitvlm import settings
from splitvlm.domain import Plan
from splitvlm.errors import ConfigError, UsageError
from splitvlm.link.traces import Trace
from splitvlm.planning.costs import CostLine
from splitvlm.profiling.profile_file import read

EXAMPLES = Path(__file__).parents[3] / "examples"
PICTURE = CostLine(Plan.parse("image/jpeg50"), 0.0, 0.1, 10_000, 0.01, 0.0, 0.19, 0.02, 1, 0, 0, 0.01)
LAYERS = CostLine(Plan.parse("lm:2/int8"), 0.4, 0.0, 1_000, 0.0, 0.0, 0.1, 0.05, 1, 1, 0, 0.0, token_bytes=100)
ALONE = CostLine(Plan.parse("device"), 1.0, 0, 0, 0, 0, 0, 0.1, 0, 0, 0, 0.0)


def a_world(trace: Trace, arrivals_s: list[list[float]], *, workers: int = 1) -> World:
    offsets_s = [0.0] * len(arrivals_s)
    return World(trace, "t", (PICTURE, LAYERS, ALONE), {"": workers}, 10, 0.05, offsets_s, arrivals_s, [1.0])


def latencies(world: World, line: CostLine, hedge: CostLine | None = None) -> list[float]:
    return list(simulate(world, FixedPlan(line, hedge)).latency_s)


def test_an_unloaded_request_costs_what_its_line_says():
    world = a_world(Trace.constant(1e6), [[0.0]])
    for line in (PICTURE, LAYERS, ALONE):
        assert latencies(world, line) == pytest.approx([line.latency_s(1e6, 0.05, 10)])


def test_an_outage_is_waited_for_and_a_hedge_ends_the_wait():
    dead_then_fast = Trace.of_rates("t", [(5.0, 0.0), (5.0, 1e6)])
    world = a_world(dead_then_fast, [[0.0]])
    assert latencies(world, PICTURE) == pytest.approx([5.0 + PICTURE.latency_s(1e6, 0.05, 10) - 0.1])
    run = simulate(world, FixedPlan(PICTURE, ALONE))
    assert list(run.latency_s) == pytest.approx([ALONE.latency_s(1, 1, 10)])
    assert list(run.device_won) == [1]
    assert list(run.payload_bytes) == [0.0]


def test_the_cloud_answers_from_its_first_token_on():
    """At 1 Mbit/s its first token comes after 0.43 s: long before the device has finished."""
    run = simulate(a_world(Trace.constant(1e6), [[0.0]]), FixedPlan(PICTURE, ALONE))
    assert list(run.latency_s) == pytest.approx([PICTURE.latency_s(1e6, 0.05, 10)])
    assert list(run.device_won) == [0]


def test_a_device_answers_one_request_at_a_time():
    world = a_world(Trace.constant(1e6), [[0.0, 0.5]])
    assert latencies(world, ALONE) == pytest.approx([2.0, 3.5])


def test_devices_queue_for_a_worker_and_two_workers_do_not():
    crowd = [[0.0], [0.0], [0.0]]
    one = latencies(a_world(Trace.constant(1e6), crowd), PICTURE)
    service_s = 0.01 + 0.19 + 10 * 0.02
    assert sorted(one) == pytest.approx([one[0], one[0] + service_s, one[0] + 2 * service_s])
    three = latencies(a_world(Trace.constant(1e6), crowd, workers=3), PICTURE)
    assert three == pytest.approx([one[0]] * 3)


def scenario(**changes: object) -> Scenario:
    chosen = settings.load(EXAMPLES / "bench-scenes.yaml", Scenario)
    short = chosen.arrivals.model_copy(update={"requests": 60})
    return chosen.model_copy(update={"arrivals": short, **changes})


def test_nobody_beats_the_oracle_and_all_answer_every_request():
    for comparison in compare(scenario(), traces=["step:2mbit@7,100kbit@7"]):
        oracle = comparison.of("oracle")
        for summary in comparison.summaries:
            assert summary.requests == 60
            assert summary.mean_s >= oracle.mean_s * (1 - 1e-9), summary.contender
            assert summary.accuracy_drop <= 0.02 + 1e-9  # a mean of sixty such drops


def test_the_same_seed_gives_the_same_requests():
    poisson = scenario(arrivals=scenario().arrivals.model_copy(update={"kind": "poisson"}), contenders="adaptive")
    first, second = (next(iter(compare(poisson, traces=["synthetic:walk"]))) for _ in range(2))
    assert list(first.runs[0].records()) == list(second.runs[0].records())
    other = next(iter(compare(poisson.model_copy(update={"seed": 1}), traces=["synthetic:walk"])))
    assert list(other.runs[0].arrival_s) != list(first.runs[0].arrival_s)


def test_scaled_profiles_scale_times_and_not_bytes():
    profiles = read(EXAMPLES / "profiles" / "scenes.json")
    lines = {line.plan: line for line in lines_of(scenario(), profiles)}
    for line in profiles.lines():
        slow = lines[line.plan]
        assert slow.device_s == pytest.approx(10 * line.device_s)
        assert slow.cloud_s == pytest.approx(line.cloud_s / 30)
        assert slow.payload_bytes == line.payload_bytes + (0 if line.local else 200)


def test_files_hold_every_request_and_say_that_they_are_simulated(tmp_path):
    comparison = next(iter(compare(scenario(contenders="adaptive"), traces=["constant:1mbit"])))
    write_csv(tmp_path / "a.csv", comparison)
    write_json(tmp_path / "a.json", comparison)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 61
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["simulated"] is True
    assert "10 times as slow" in " ".join(content["notes"])


def test_a_cut_that_the_model_lacks_is_named():
    lacking = scenario(planning=scenario().planning.model_copy(update={"cuts": ["lm:9"]}))
    with pytest.raises(UsageError, match="lm:9"):
        next(iter(compare(lacking)))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("profiles: p.json\nlink: {rtt_s: -1}", "link.rtt_s"),
        ("profiles: p.json\ndevices: {slowdown: fast}", "devices.slowdown"),
        ("profiles: p.json\nlonk: {}", "lonk"),
        ("name: x", "profiles is missing"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, text, named):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named):
        settings.load(file, Scenario)


def test_every_example_is_valid():
    files = [*EXAMPLES.glob("simulate-*.yaml"), *EXAMPLES.glob("bench-*.yaml")]
    assert len(files) >= 6
    for file in files:
        assert read(settings.load(file, Scenario).profiles).lines()


def test_a_run_whose_drop_nobody_measured_is_unknown_in_every_report(tmp_path):
    unknown = replace(PICTURE, accuracy_drop=None)
    run = simulate(a_world(Trace.constant(1e6), [[0.0, 5.0]]), FixedPlan(unknown))
    run.contender = "adaptive"
    assert [record.accuracy_drop for record in run.records()] == [None, None]
    summary = summarise(run, None, None)
    assert summary.accuracy_drop is None
    comparison = Comparison("s", "t", (), (run,), (summary,))
    write_json(tmp_path / "x.json", comparison)
    assert json.loads((tmp_path / "x.json").read_text())["summaries"][0]["accuracy_drop"] is None
    write_csv(tmp_path / "x.csv", comparison)
    assert (tmp_path / "x.csv").read_text().splitlines()[1].endswith(",")
    console = Console(file=io.StringIO(), width=120)
    show(comparison, console)
    assert "unknown" in console.file.getvalue()
    assert (
        summarise(simulate(a_world(Trace.constant(1e6), [[0.0]]), FixedPlan(PICTURE)), None, None).accuracy_drop == 0.01
    )


def test_percentiles_are_linear_between_neighbours():
    assert percentile([0.0, 1.0, 2.0, 3.0], 0.5) == 1.5
    assert percentile([5.0], 0.99) == 5.0


def test_a_summary_counts_late_answers():
    run = simulate(a_world(Trace.constant(1e6), [[0.0, 0.5]]), FixedPlan(ALONE))
    assert summarise(run, 3.0, 2.0).deadline_misses == 0.5
    assert summarise(run, 3.0, 2.0).regret == pytest.approx(2.75 / 2 - 1)


@pytest.mark.parametrize("trace", ["constant:0mbit", "outage:0bit@5,5"])
def test_a_link_that_is_dead_throughout_is_refused_in_a_sentence(trace):
    scenario = settings.load(EXAMPLES / "simulate-robot.yaml", Scenario)
    with pytest.raises(UsageError, match="dead throughout"):
        next(iter(compare(scenario, traces=[trace])))
