"""The registry and the tables: plain values, a clock that the test holds."""

from dataclasses import replace

import pytest

from orchestrator.registry import CloudNode, EdgeNode, LinkSeen, Registry
from orchestrator.tables import device_table
from splitvlm.domain import DEVICE, TOKENS, Plan
from splitvlm.errors import ConfigError
from splitvlm.planning.table import Limits

from .test_wire_plans import CLOUD_PROFILE, DEVICE_PROFILE

EDGE = EdgeNode("edge-1", "scenes", "hash", DEVICE_PROFILE, Limits(), seen_s=0.0)
CLOUD = CloudNode("cloud-1", "scenes", "hash", "127.0.0.1:1", CLOUD_PROFILE, seen_s=0.0)


def registry() -> Registry:
    known = Registry(heartbeat_s=2.0)
    known.register(EDGE)
    known.register(CLOUD)
    return known


def test_a_node_is_alive_for_three_beats() -> None:
    known = registry()
    assert known.clouds_for(EDGE, now_s=6.0) == [CLOUD]
    assert known.clouds_for(EDGE, now_s=6.1) == []
    assert known.beat("cloud-1", now_s=6.1, queue_s=0.02)
    assert known.clouds_for(EDGE, now_s=12.0)[0].queue_s == 0.02


def test_an_unknown_node_is_told_to_register() -> None:
    assert not Registry(1.0).beat("stranger", now_s=0.0)


def test_clouds_with_other_weights_do_not_count() -> None:
    known = registry()
    known.register(replace(CLOUD, name="cloud-2", weights_hash="other"))
    assert [node.name for node in known.clouds_for(EDGE, now_s=0.0)] == ["cloud-1"]


def test_the_shorter_queue_is_chosen_and_stands_in_the_lines() -> None:
    busy = replace(CLOUD, queue_s=0.5)
    idle = replace(CLOUD, name="cloud-2", address="127.0.0.1:2")
    made = device_table(EDGE, [busy, idle], {}, 1)
    assert made.cloud == idle
    assert device_table(EDGE, [busy], {}, 1).table.lines[0].queue_s == 0.5


def test_without_a_cloud_only_the_device_is_left() -> None:
    made = device_table(EDGE, [], {}, 1)
    assert [line.plan.cut for line in made.table.lines] == [DEVICE]
    assert made.cloud is None


def test_a_table_that_changes_nothing_is_the_same() -> None:
    one, two = (device_table(EDGE, [CLOUD], {}, version) for version in (1, 2))
    assert two.same_as(one)
    assert not device_table(EDGE, [], {}, 3).same_as(one)
    assert not one.same_as(None)


def test_limits_that_forbid_everything_are_named() -> None:
    strict = replace(EDGE, limits=Limits(max_accuracy_drop=0.0, cuts=frozenset({TOKENS})))
    with pytest.raises(ConfigError, match="max_accuracy_drop"):
        device_table(strict, [CLOUD], {Plan(TOKENS, "int4"): 0.5}, 1)


def test_the_newest_link_report_of_a_known_node_is_kept() -> None:
    known = registry()
    known.register(EDGE)
    seen = LinkSeen(1e6, 0.05, 0.2, {"tokens/int4": 3}, at_s=1.0)
    known.report(EDGE.name, seen)
    known.report(EDGE.name, replace(seen, uplink_bps=1e5, at_s=6.0))
    known.report("stranger", seen)
    assert known.links == {EDGE.name: replace(seen, uplink_bps=1e5, at_s=6.0)}
