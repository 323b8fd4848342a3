"""What a simulation concludes: by the difference of the same requests, and no surer than they allow."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from orchestrator.simulator.plots import busiest
from orchestrator.simulator.results import Comparison, Record, Run, summarise
from orchestrator.simulator.verdict import difference, over_all, verdict

REQUESTS = 400


def run(contender: str, latency_s: Callable[[int], float], requests: int = REQUESTS) -> Run:
    made = Run(contender, "constant:1mbit", plans=["image/jpeg50"])
    for number in range(requests):
        made.device.append(0)
        made.arrival_s.append(3.0 * number)
        made.start_s.append(3.0 * number)
        made.plan.append(0)
        for column in (made.hedged, made.device_won):
            column.append(0)
        made.latency_s.append(latency_s(number))
        for numbers in (made.first_token_s, made.predicted_s, made.payload_bytes, made.energy_j, made.accuracy_drop):
            numbers.append(0.0)
    return made


def comparison(*runs: Run, trace: str = "constant:1mbit") -> Comparison:
    return Comparison("test", trace, (), runs, tuple(summarise(each, None, None) for each in runs))


def noisy(mean_s: float, seed: int) -> Callable[[int], float]:
    rng = random.Random(seed)
    return lambda number: mean_s + rng.uniform(-0.05, 0.05)


@pytest.mark.parametrize(
    ("ours_s", "fixed_s", "take"),
    [
        (0.1, 0.2, ("adaptive",)),
        (0.2, 0.1, ("image/jpeg50",)),
        (0.1, 0.1, ("adaptive", "image/jpeg50")),
        (0.2, 0.2005, ("adaptive", "image/jpeg50")),
    ],
)
def test_what_to_take(ours_s: float, fixed_s: float, take: tuple[str, ...]) -> None:
    told = verdict(comparison(run("adaptive", noisy(ours_s, 1)), run("image/jpeg50", noisy(fixed_s, 2))))
    assert told is not None
    assert told.take == take
    assert told.sentence.startswith(f"Take {' or '.join(take)}".replace("Take adaptive", "Take the adaptive policy"))
    if len(take) == 1:
        assert told.saves_s == pytest.approx(0.1, abs=0.01)
        assert 0 < told.half_s < 0.02
        assert "saves 50" in told.sentence or "saves 49" in told.sentence
        assert "50" in told.in_short or "49" in told.in_short


def test_baselines_that_are_slower_are_named_with_what_is_saved() -> None:
    times = {"adaptive": 0.1, "image/jpeg50": 0.1, "adaptive-jpeg": 0.4, "device/none": 0.1}
    told = verdict(comparison(*(run(name, lambda number, s=s: s) for name, s in times.items())))  # type: ignore[misc]
    assert told is not None
    assert told.in_short.endswith("matters; 75 % less than JPEG adapted to the link")


def test_requests_that_follow_one_another_are_no_independent_observations() -> None:
    """One slow stretch of an eighth of the time says less than 50 slow requests that lie anywhere."""
    flat = run("adaptive", lambda number: 0.1)
    together = run("image/jpeg50", lambda number: 0.9 if number < 50 else 0.1)
    apart = run("image/jpeg50", lambda number: 0.9 if number % 8 == 0 else 0.1)
    (one_s, sure_s), (other_s, surer_s) = difference(apart, flat), difference(together, flat)
    assert one_s == pytest.approx(other_s)
    assert surer_s > 5 * sure_s


def test_pairs_are_the_same_requests_in_whatever_order_they_ended() -> None:
    first, second = (run(name, lambda number: 0.1 + number / 1e3) for name in ("adaptive", "image/jpeg50"))
    for name in ("arrival_s", "latency_s"):
        setattr(second, name, array("d", reversed(getattr(second, name))))
    assert difference(second, first) == (pytest.approx(0.0), pytest.approx(0.0))


def test_a_few_questions_conclude_nothing() -> None:
    told = verdict(
        comparison(*(run(name, lambda number, s=s: s, 20) for name, s in (("adaptive", 0.1), ("image/jpeg50", 0.3))))
    )
    assert told is not None
    assert math.isinf(told.half_s)
    assert "20 questions are too few" in told.sentence


def test_without_fixed_plans_nothing_is_concluded() -> None:
    alone = comparison(run("adaptive", lambda number: 0.1))
    assert verdict(alone) is None
    assert over_all([alone, alone]) == ""


def test_one_fixed_plan_must_serve_all_links() -> None:
    def link(jpeg_s: float, tokens_s: float) -> Comparison:
        times = {"adaptive": min(jpeg_s, tokens_s) + 0.01, "image/jpeg50": jpeg_s, "tokens/klt3": tokens_s}
        return comparison(*(run(name, lambda number, s=s: s) for name, s in times.items()))  # type: ignore[misc]

    told = over_all([link(0.1, 0.4), link(0.9, 0.4)])
    assert "0.26 s by the adaptive policy, 0.4 s by tokens/klt3" in told
    assert told.endswith("take the adaptive policy.")
    assert over_all([link(0.1, 0.4)]) == ""


def rows(plans: Sequence[str]) -> list[Record]:
    return [
        Record(0, 3.0 * n, 3.0 * n, plan, False, False, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0) for n, plan in enumerate(plans)
    ]


def test_the_timeline_shows_where_plans_change() -> None:
    plans = ["a"] * 200 + ["a", "b"] * 10 + ["a"] * 180
    shown = busiest(rows(plans), repetition_s=120.0)
    assert len(shown) <= 41
    assert {row.plan for row in shown} == {"a", "b"}
    assert sum(one.plan != other.plan for one, other in pairwise(shown)) >= 19


def test_the_timeline_shows_a_trace_once() -> None:
    shown = busiest(rows(["a"] * 60 * 5), repetition_s=180.0)
    assert shown[-1].start_s - shown[0].start_s <= 180.0
    assert len(busiest(rows(["a"] * 7), repetition_s=1.0)) == 7
