"""The registry, the tables and the pace of callers: plain values, a clock that the test holds."""

from dataclasses import replace

import pytest

from orchestrator.pace import Pace
from orchestrator.registry import FORGOTTEN_AFTER_S, CloudNode, EdgeNode, Origin, Registry
from orchestrator.tables import Tables, ranking
from splitvlm.domain import DEVICE, TOKENS, Plan
from splitvlm.errors import CapacityError, ConfigError, UsageError
from splitvlm.planning.kinds import AccuracyDrop
from splitvlm.planning.limits import PlanLimits
from tests.unit.rpc.test_profiles import CLOUD_PROFILE, DEVICE_PROFILE

HERE = Origin("aaaaaaaa", "10.0.0.1", "127.0.0.1:7443")
THERE = Origin("bbbbbbbb", "10.0.0.2", "127.0.0.1:7443")
AGAIN = replace(HERE, instance="cccccccc")  # the same host and port: a restart, or a twin behind the same NAT
EDGE = EdgeNode("edge-1", "scenes", "hash", HERE, (DEVICE_PROFILE,), PlanLimits(), b"kind")
CLOUD = CloudNode("cloud-1", "scenes", "hash", HERE, "127.0.0.1:1", (CLOUD_PROFILE,))


def registry() -> Registry:
    known = Registry(heartbeat_s=2.0)
    known.register(EDGE, 0.0)
    known.register(CLOUD, 0.0)
    return known


def test_a_node_is_alive_for_three_beats() -> None:
    known = registry()
    assert not known.expire(6.0)
    assert known.clouds_for(EDGE) == (CLOUD,)
    assert known.expire(6.1)
    assert known.clouds_for(EDGE) == ()
    assert known.note_heartbeat("cloud-1", HERE.instance, 6.1, queue_s=0.02), "it is back"
    assert known.clouds_for(EDGE)[0].queue_s == 0.02


def test_a_device_beats_each_five_minutes_while_its_plan_stream_is_open() -> None:
    known = registry()
    assert (known.period_s(CLOUD), known.period_s(EDGE)) == (2.0, 300.0)
    assert not known.is_alive("edge-1", 6.1), "without a stream it is dead as soon as a cloud node"
    known.stream_changed("edge-1", HERE.instance, 1.0, is_open=True)
    assert known.is_alive("edge-1", 900.0)
    assert not known.is_alive("edge-1", 902.0)
    known.note_heartbeat("edge-1", HERE.instance, 301.0)
    known.stream_changed("edge-1", THERE.instance, 302.0, is_open=False)  # of another process: tells nothing
    assert known.is_alive("edge-1", 1200.0)
    known.stream_changed("edge-1", HERE.instance, 302.0, is_open=False)
    assert known.is_alive("edge-1", 308.0)
    assert not known.is_alive("edge-1", 308.1)


@pytest.mark.parametrize(("heartbeat_s", "period_s"), [(0.1, 40.0), (0.75, 300.0), (60.0, 300.0)])
def test_a_device_is_to_beat_within_five_minutes(heartbeat_s: float, period_s: float) -> None:
    assert Registry(heartbeat_s).period_s(EDGE) == pytest.approx(period_s)


def test_an_unknown_node_is_told_to_register() -> None:
    with pytest.raises(UsageError, match="not registered"):
        Registry(1.0).note_heartbeat("stranger", HERE.instance, 0.0)


def test_clouds_with_other_weights_do_not_count() -> None:
    known = registry()
    known.register(replace(CLOUD, name="cloud-2", weights_hash="other"), 0.0)
    assert [node.name for node in known.clouds_for(EDGE)] == ["cloud-1"]


def test_only_what_tables_depend_on_makes_another_generation() -> None:
    known = registry()
    before = known.generation("hash")
    assert not any(known.note_heartbeat("edge-1", HERE.instance, now_s) for now_s in range(100))
    assert not any(known.note_heartbeat("cloud-1", HERE.instance, now_s, queue_s=0.004) for now_s in range(100))
    assert known.generation("hash") == before
    assert known.note_heartbeat("cloud-1", HERE.instance, 100.0, queue_s=0.1)
    assert not known.note_heartbeat("cloud-1", HERE.instance, 100.0, queue_s=0.12), (
        "less than a step from what tables say"
    )
    assert known.note_heartbeat("cloud-1", HERE.instance, 100.0, queue_s=0.0)
    generations = [before, known.generation("hash")]
    known.register(replace(CLOUD, name="cloud-2"), 100.0)
    generations.append(known.generation("hash"))
    assert known.leave("cloud-2", HERE.instance)
    generations.append(known.generation("hash"))
    assert len(set(generations)) == 4
    assert known.generation("other") == 0


def test_a_second_node_of_a_name_is_refused_while_the_first_lives() -> None:
    known = registry()
    with pytest.raises(ConfigError, match=r"edge-1 .*10\.0\.0\.1 .* beside 10\.0\.0\.2"):
        known.register(replace(EDGE, origin=THERE), 1.0)
    with pytest.raises(ConfigError, match="edge-1"):
        known.note_heartbeat("edge-1", THERE.instance, 1.0)
    with pytest.raises(ConfigError, match="edge-1"):
        known.check_holder("edge-1", THERE.instance, 1.0)
    with pytest.raises(ConfigError, match="cloud-1"):
        known.register(replace(EDGE, name="cloud-1", origin=THERE), 1.0)
    assert not known.leave("edge-1", THERE.instance)
    assert not known.note_heartbeat("edge-1", HERE.instance, 1.0), "the first holds it as before"
    known.register(replace(EDGE, origin=THERE), 7.1)  # after its silence
    known.check_holder("edge-1", THERE.instance, 7.1)


def test_a_node_that_left_frees_its_name_at_once() -> None:
    known = registry()
    known.leave("edge-1", HERE.instance)
    known.register(replace(EDGE, origin=THERE), 0.1)
    assert known.leave("cloud-1", HERE.instance), "tables depend on it"
    assert known.clouds_for(EDGE) == ()


def test_a_restart_at_the_same_place_is_taken_at_once() -> None:
    known = registry()
    again = replace(CLOUD, origin=AGAIN)
    known.register(again, 0.1)
    assert known.clouds_for(EDGE) == (again,)
    known.note_heartbeat("cloud-1", AGAIN.instance, 99.0)
    with pytest.raises(ConfigError):
        known.note_heartbeat(
            "cloud-1", HERE.instance, 100.0
        )  # too late to have lived all the time: another one is there


def test_twins_behind_one_nat_the_first_gets_its_name_back_for_good() -> None:
    known = registry()
    known.register(replace(CLOUD, origin=AGAIN), 0.1)
    known.note_heartbeat("cloud-1", HERE.instance, 2.0)
    assert known.clouds_for(EDGE) == (CLOUD,)
    for now_s in (2.1, 4.0, 8.0):
        with pytest.raises(ConfigError, match="cloud-1"):
            known.note_heartbeat("cloud-1", AGAIN.instance, now_s)
        with pytest.raises(ConfigError, match="cloud-1"):
            known.register(replace(CLOUD, origin=AGAIN), now_s)
    known.register(replace(CLOUD, origin=AGAIN), 8.1)  # the first is dead now
    assert known.clouds_for(EDGE)[0].origin == AGAIN


def test_living_nodes_are_bounded_and_the_dead_make_room() -> None:
    known = Registry(heartbeat_s=2.0, max_nodes=2)
    for name, now_s in (("edge-1", 0.0), ("edge-2", 1.0)):
        known.register(replace(EDGE, name=name), now_s)
    with pytest.raises(CapacityError, match="2 living nodes"):
        known.register(replace(EDGE, name="edge-3"), 1.0)
    known.register(replace(EDGE, name="edge-3"), 6.5)
    assert {node.name for node in known.nodes()} == {"edge-2", "edge-3"}
    known.forget(6.6 + FORGOTTEN_AFTER_S)
    assert known.nodes() == []


def test_the_shorter_queue_is_chosen_and_stands_in_the_lines() -> None:
    busy = replace(CLOUD, queue_s=0.5)
    idle = replace(CLOUD, name="cloud-2", address="127.0.0.1:2")
    made = Tables({}).table_for(EDGE, [busy, idle])
    assert made.cloud == idle
    assert Tables({}).table_for(EDGE, [busy]).lines[0].queue_s == 0.5


def test_devices_that_are_alike_share_tables_and_are_spread() -> None:
    clouds = [replace(CLOUD, name=f"cloud-{number}", address=f"127.0.0.1:{number}") for number in range(1, 5)]
    tables = Tables({})
    made = {name: tables.table_for(replace(EDGE, name=name), clouds) for name in map("edge-{}".format, range(200))}
    assert len({id(table.lines) for table in made.values()}) == 4
    used = [table.cloud.name for table in made.values() if table.cloud]
    assert all(20 < used.count(cloud.name) < 90 for cloud in clouds)
    assert all(len({*table.standby, table.cloud and table.cloud.address}) == 4 for table in made.values())
    for name, table in made.items():  # a death moves only the devices of the dead
        left = ranking(name, [cloud for cloud in clouds if cloud.name != "cloud-1"])
        assert left[0] == table.cloud or table.cloud == clouds[0]


def test_without_a_cloud_only_the_device_is_left() -> None:
    made = Tables({}).table_for(EDGE, [])
    assert [line.plan.cut for line in made.lines] == [DEVICE]
    assert made.cloud is None


def test_a_table_that_changes_nothing_is_the_same() -> None:
    one, two = (Tables({}).table_for(EDGE, [CLOUD]) for _ in range(2))
    assert two.same_as(one)
    assert not Tables({}).table_for(EDGE, []).same_as(one)
    assert not one.same_as(None)


def test_limits_that_forbid_everything_are_named() -> None:
    strict = replace(EDGE, limits=PlanLimits(max_accuracy_drop=0.0, cuts=frozenset({TOKENS})))
    made = Tables({Plan(TOKENS, "int4"): 0.5}).table_for(strict, [CLOUD])
    assert made.lines == ()
    assert "max_accuracy_drop" in made.problem
    assert "No living cloud node" in Tables({}).table_for(strict, []).problem


def test_plans_that_nobody_measured_are_left_out_and_told_of() -> None:
    limited = replace(EDGE, limits=PlanLimits(max_accuracy_drop=0.1), kind=b"limited")
    made = Tables({}).table_for(limited, [CLOUD])
    assert [str(line.plan) for line in made.lines] == ["device/none"]
    assert made.notice.startswith("3 plans are forbidden by max_accuracy_drop, because nobody measured")
    measured = replace(CLOUD, accuracy={Plan(TOKENS, "int4"): AccuracyDrop(0.05)})
    told = Tables({}).table_for(limited, [measured])
    assert "tokens/int4" in {str(line.plan) for line in told.lines}
    assert told.notice.startswith("2 plans are")
    assert not told.same_as(made)
    assert Tables({}).table_for(EDGE, [CLOUD]).notice == ""


def test_accuracy_of_full_does_not_count_for_a_device_with_another_variant() -> None:
    small = replace(EDGE, profiles=(replace(DEVICE_PROFILE, variant="w8"),), kind=b"small")
    serving = replace(CLOUD_PROFILE, variants=frozenset({"full", "w8"}))
    cloud = replace(CLOUD, profiles=(serving,), accuracy={Plan(TOKENS, "int4"): AccuracyDrop(0.1)})
    drops = {str(line.plan): line.accuracy_drop for line in Tables({}).table_for(small, [cloud]).lines}
    assert drops["tokens/int4@w8"] is None
    both = replace(EDGE, profiles=(DEVICE_PROFILE, *small.profiles), kind=b"both")
    plans = {str(line.plan) for line in Tables({}).table_for(both, [cloud]).lines}
    assert {"device/none", "device/none@w8"} & plans
    assert [line.plan.cut for line in Tables({}).table_for(small, [CLOUD]).lines] == [DEVICE], "it serves no w8"


def test_a_caller_has_a_burst_then_a_rate_and_others_are_not_touched() -> None:
    pace = Pace(rate_per_s=2.0, burst=3)
    assert [pace.wait_s("edge-1", 0.0) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert pace.wait_s("edge-2", 0.0) == 0
    assert pace.wait_s("edge-1", 0.5) == 0
    assert pace.wait_s("edge-1", 0.5) == 0.5
    assert [pace.wait_s("edge-1", 100.0) for _ in range(4)] == [0, 0, 0, 0.5]
