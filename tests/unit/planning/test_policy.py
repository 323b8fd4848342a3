"""The policy's laws: conservative, steady, never forbidden, and back from the device when the link is."""

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.domain import DEVICE, Plan
from splitvlm.planning.costs import CostLine
from splitvlm.planning.limits import PlanLimits
from splitvlm.planning.policy import SLACK, LinkView, Objective, Policy, PolicyOptions
from splitvlm.planning.table import PlanTable, build_table


def a_line(plan: str, *, payload_bytes: int, fixed_s: float, trips: int = 1) -> CostLine:
    return CostLine(Plan.parse(plan), fixed_s, 0, payload_bytes, 0, 0, 0, 0.01, trips, 0, 0, 0.0)


IMAGE = a_line("image/q75", payload_bytes=12_000, fixed_s=0.1)
TOKENS = a_line("tokens/int4", payload_bytes=3_000, fixed_s=0.3)
ALONE = a_line("device", payload_bytes=0, fixed_s=1.0, trips=0)
TABLE = PlanTable(1, (IMAGE, TOKENS, ALONE))
FAST, SLOW, DEAD = LinkView(10e6, 0.02, 0.1), LinkView(300e3, 0.02, 0.1), LinkView(10e3, 0.02, 0.1)
links = st.builds(LinkView, st.floats(1e3, 1e9), st.floats(0, 2), st.floats(0, 2), st.just(0.0), st.just(()))


def plans_over(policy: Policy, *steps: tuple[LinkView, float]) -> list[Plan | None]:
    return [policy.pick(TABLE, link, 5, now_s).plan for link, now_s in steps]


def test_it_follows_the_link_down_to_the_device_and_comes_back():
    picked = plans_over(Policy(), (FAST, 0), (SLOW, 10), (DEAD, 20), (SLOW, 30), (FAST, 40))
    assert picked == [IMAGE.plan, TOKENS.plan, ALONE.plan, TOKENS.plan, IMAGE.plan]


def test_a_small_gain_is_not_worth_a_change():
    policy = Policy(PolicyOptions(margin=0.1, hedging=False))
    crossing_bps = 8 * (12_000 - 3_000) / 0.2  # image and tokens are equally fast
    assert plans_over(policy, (FAST, 0)) == [IMAGE.plan]
    assert plans_over(policy, (LinkView(0.9 * crossing_bps, 0.02, 0), 100)) == [IMAGE.plan]
    assert (
        Policy(PolicyOptions(hedging=False)).pick(TABLE, LinkView(0.9 * crossing_bps, 0.02, 0), 5, 0).plan
        == TOKENS.plan
    )


def test_of_plans_that_are_nearly_as_fast_the_first_pick_sends_fewer_bytes_where_they_are_faster_in_the_tail():
    nearly_bps = 1.1 * 8 * (12_000 - 3_000) / 0.2
    assert IMAGE.latency_s(nearly_bps, 0.02, 5) < TOKENS.latency_s(nearly_bps, 0.02, 5)  # by 5 %
    steady = LinkView(nearly_bps, 0.02, 0.0, 0.0, ((1.0, nearly_bps, 0.0),))
    varying = LinkView(nearly_bps, 0.02, 0.3, 0.0, ((0.5, nearly_bps / 1.3, 0.0), (0.5, nearly_bps / 0.7, 0.0)))
    assert Policy(PolicyOptions(hedging=False)).pick(TABLE, varying, 5, 0).plan == TOKENS.plan
    assert Policy(PolicyOptions(hedging=False)).pick(TABLE, steady, 5, 0).plan == IMAGE.plan


@pytest.mark.parametrize("dip_bps", [20e3, 100e3, 300e3])
def test_a_fast_link_with_rare_dips_gives_nothing_away_for_fewer_bytes(dip_bps):
    """Nineteen in twenty transfers are fast: fewer bytes steady only those of which there are too few to matter."""
    usual_bps = 1.5e6  # at which the image is faster by 12 ms of 250
    nearly = a_line("tokens/int4", payload_bytes=3_000, fixed_s=0.16)
    lines = PlanTable(1, (IMAGE, nearly))
    rare = LinkView(usual_bps, 0.02, 0.1, usual_bps, ((1.0, usual_bps, 0.0),), usual_bps)
    assert Policy(PolicyOptions(hedging=False)).pick(lines, rare, 5, 0).plan == IMAGE.plan
    often = rare._replace(tail_bps=dip_bps)
    assert Policy(PolicyOptions(hedging=False)).pick(lines, often, 5, 0).plan == nearly.plan


def test_beside_a_device_that_is_nearly_as_fast_no_gain_is_given_away_for_bytes():
    """Each plan is hardly faster than the device, so all are nearly as fast; what is saved differs by much."""
    small = a_line("tokens/int4", payload_bytes=3_000, fixed_s=0.90)
    fast = a_line("image/q75", payload_bytes=12_000, fixed_s=0.84)
    table = PlanTable(1, (small, fast, ALONE))
    assert Policy().pick(table, LinkView(10e6, 0.02, 0.0), 5, 0).plan == fast.plan


def test_a_cloud_that_begins_before_the_device_is_done_may_end_after_it():
    """A hedge's cost is the cloud's whole answer once its first token is there, not the earlier of both ends."""
    late = CostLine(Plan.parse("image/q75"), 0.6, 0, 30_000, 0, 0, 0, 0.05, 1, 0, 0, 0.0)
    soon = a_line("tokens/int4", payload_bytes=300, fixed_s=0.93)
    slow_bps = 750e3
    assert late.first_token_s(slow_bps, 0.02) < ALONE.latency_s(1, 1, 5) < late.latency_s(slow_bps, 0.02, 5)
    uncertain = LinkView(10e6, 0.02, 0.0, 10e6, ((0.5, 10e6, 0.0), (0.5, slow_bps, 0.0)))
    assert Policy().pick(PlanTable(1, (late, soon, ALONE)), uncertain, 5, 0).plan == soon.plan


def test_the_margin_grows_with_the_predictor_s_error():
    """At 280 kbit/s tokens take 0.456 s and image 0.513: a gain of 11 %, above a margin of 10 % and below one of 12 %."""
    sure, unsure = Policy(PolicyOptions(hedging=False, margin=0.10)), Policy(PolicyOptions(hedging=False, margin=0.10))
    for policy in (sure, unsure):
        policy.pick(TABLE, FAST, 5, 0)
    slow_bps = 280e3
    assert sure.pick(TABLE, LinkView(slow_bps, 0.02, 0), 5, 10).plan == TOKENS.plan
    same_slow_end = LinkView(slow_bps * 2, 0.01, 1.0)
    assert unsure.pick(TABLE, same_slow_end, 5, 10).plan == IMAGE.plan


def test_a_plan_is_kept_for_the_dwell_unless_another_is_vastly_better():
    policy, slower = Policy(PolicyOptions(min_dwell_s=5)), LinkView(270e3, 0.02, 0)  # 0.53 s against 0.46 s
    assert plans_over(policy, (FAST, 0), (slower, 1)) == [IMAGE.plan, IMAGE.plan]
    assert policy.pick(TABLE, slower, 5, 1).reason == "kept: changed a moment ago"
    assert plans_over(policy, (slower, 6)) == [TOKENS.plan]
    assert plans_over(policy, (DEAD, 6.1)) == [ALONE.plan]  # 2.4 s of sending against 1 s


def test_without_a_cloud_the_device_answers_and_the_cloud_s_return_needs_no_dwell():
    policy = Policy(PolicyOptions(min_dwell_s=60))
    assert policy.pick(TABLE, FAST, 5, 0).plan == IMAGE.plan
    assert policy.pick(TABLE, FAST, 5, 1, cloud_reachable=False).plan == ALONE.plan
    assert policy.pick(TABLE, FAST, 5, 2).plan == IMAGE.plan


def test_without_a_cloud_and_without_a_device_there_is_no_plan():
    choice = Policy().pick(PlanTable(1, (IMAGE, TOKENS)), FAST, 5, 0, cloud_reachable=False)
    assert choice.plan is None
    assert "cloud is away" in choice.reason


def test_the_prediction_is_that_of_the_estimate_and_its_slow_end():
    choice = Policy().pick(TABLE, FAST, 5, 0)
    assert choice.predicted_s == pytest.approx(IMAGE.latency_s(10e6, 0.02, 5))
    assert choice.conservative_s == pytest.approx(IMAGE.latency_s(10e6 / 1.1, 0.02 * 1.1, 5))


def test_a_hedge_costs_at_most_the_device_s_own_time_and_is_left_out_where_the_cloud_is_no_help():
    choice = Policy().pick(TABLE, SLOW, 5, 0)
    assert (choice.plan, choice.hedge_after_s) == (TOKENS.plan, 0)
    assert choice.conservative_s <= ALONE.latency_s(1, 1, 5)
    assert Policy(PolicyOptions(hedging=False)).pick(TABLE, SLOW, 5, 0).hedge_after_s is None
    alone = Policy().pick(TABLE, DEAD, 5, 0)
    assert (alone.plan, alone.hedge_after_s) == (ALONE.plan, None)


def test_where_energy_counts_the_device_starts_only_when_the_cloud_is_overdue():
    policy = Policy(PolicyOptions(objective=Objective(1.0, 0.1)))
    choice = policy.pick(TABLE, FAST, 5, 0)
    assert choice.plan == IMAGE.plan
    assert choice.hedge_after_s == pytest.approx(IMAGE.latency_s(10e6 / 1.1, 0.022, 5))
    pressed = Policy(PolicyOptions(objective=Objective(1.0, 0.1), deadline_s=1.1)).pick(TABLE, FAST, 5, 0)
    assert pressed.hedge_after_s == pytest.approx(1.1 - ALONE.latency_s(1, 1, 5))


def test_a_deadline_makes_it_shun_the_plan_that_may_be_late():
    """Image is faster on average, but late in one case of five; tokens never is."""
    forecast = ((0.8, 10e6, 0.0), (0.2, 100e3, 0.0))
    link = LinkView(10e6, 0.02, 0.1, 10e6, forecast)
    lines = (
        a_line("image/q75", payload_bytes=6_000, fixed_s=0.1),
        a_line("tokens/int4", payload_bytes=1_000, fixed_s=0.3),
    )
    assert Policy(PolicyOptions(hedging=False)).pick(PlanTable(1, lines), link, 5, 0).plan == lines[0].plan
    assert (
        Policy(PolicyOptions(hedging=False, deadline_s=0.5)).pick(PlanTable(1, lines), link, 5, 0).plan == lines[1].plan
    )


def test_energy_alone_prefers_the_plan_that_computes_least():
    assert Policy(PolicyOptions(objective=Objective(0.0, 1.0))).pick(TABLE, FAST, 5, 0).plan == IMAGE.plan


def test_a_metered_link_sends_no_more_than_its_bytes():
    policy = Policy(PolicyOptions(bytes_per_day=24 * 20_000))  # 20,000 bytes an hour
    sent = 0
    for second in range(7200):
        choice = policy.pick(TABLE, FAST, 5, second)
        line = next(line for line in TABLE.lines if line.plan == choice.plan)
        policy.spent(line.payload_bytes, second)
        sent += line.payload_bytes
    assert 40_000 <= sent <= 60_000  # the hours that have passed, and the first hour's burst
    assert policy.pick(PlanTable(1, (IMAGE,)), FAST, 5, 7200).plan is None


@given(st.lists(st.tuples(links, st.integers(0, 100), st.booleans()), max_size=20))
def test_no_sequence_of_links_picks_a_forbidden_plan(steps):
    limits = PlanLimits(cuts=frozenset({TOKENS.plan.cut, DEVICE}))
    before, after = TABLE, build_table(TABLE.lines, limits, 2)
    policy = Policy()
    policy.pick(before, FAST, 5, 0)
    for now_s, (link, n_tokens, reachable) in enumerate(steps):
        choice = policy.pick(after, link, n_tokens, now_s, cloud_reachable=reachable)
        assert choice.plan in {line.plan for line in after.lines}
        assert choice.plan != IMAGE.plan


@given(links, st.integers(0, 100))
def test_the_first_pick_is_the_best_at_the_slow_end_but_for_the_slack_that_saves_bytes(link, n_tokens):
    slow = (link.uplink_bps / (1 + link.spread), link.rtt_s * (1 + link.spread), n_tokens)
    choice = Policy(PolicyOptions(hedging=False)).pick(TABLE, link, n_tokens, 0)
    best = TABLE.best(*slow)
    assert choice.conservative_s >= best.latency_s(*slow) * (1 - 1e-9)
    assert choice.conservative_s <= best.latency_s(*slow) / (1 - SLACK) * (1 + 1e-9)
    if choice.conservative_s > best.latency_s(*slow) * (1 + 1e-9):
        picked = next(line for line in TABLE.lines if line.plan == choice.plan)
        assert picked.bits_of(n_tokens) < best.bits_of(n_tokens)


@given(st.lists(links, max_size=20))
def test_what_it_keeps_is_never_twice_as_slow_as_the_best(seen):
    policy = Policy(PolicyOptions(hedging=False))
    for now_s, link in enumerate(seen):
        slow = (link.uplink_bps / (1 + link.spread), link.rtt_s * (1 + link.spread), 5)
        choice = policy.pick(TABLE, link, 5, now_s)
        assert choice.conservative_s <= 2 * TABLE.best(*slow).latency_s(*slow) * (1 + 1e-9)


def test_time_of_a_pick():
    lines = tuple(a_line(f"vision:{k}/int8", payload_bytes=1_000 * k, fixed_s=2 / k) for k in range(1, 21))
    alone = a_line("device", payload_bytes=0, fixed_s=1.5, trips=0)
    policy, table = Policy(), PlanTable(1, (*lines, alone))
    links = [LinkView(10.0**k, 0.02, 0.2) for k in (4, 5, 6, 7)]
    policy.pick(table, links[0], 5, 0)
    rounds = timeit.repeat(lambda: [policy.pick(table, link, 5, 0) for link in links], number=50, repeat=20)
    pick_us = min(rounds) / (50 * len(links)) * 1e6  # the least: other processes can only add to it
    print(f"a pick from {len(lines)} lines: {pick_us:.1f} microseconds")
    assert pick_us < 150  # promised: 50; three times that is no noise of a busy machine but another algorithm
