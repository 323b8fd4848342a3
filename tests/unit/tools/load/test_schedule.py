from itertools import pairwise

import pytest

from splitvlm.errors import UsageError
from splitvlm.tools.load.schedule import AnswerLengths, poisson_arrivals_s


def test_a_fixed_length_is_always_the_same() -> None:
    assert AnswerLengths.parse("64").draw(3, seed=1) == [64, 64, 64]


def test_drawn_lengths_reach_both_bounds_and_repeat_with_the_seed() -> None:
    lengths = AnswerLengths.parse("3:5")
    drawn = lengths.draw(200, seed=1)
    assert set(drawn) == {3, 4, 5}
    assert drawn == lengths.draw(200, seed=1) != lengths.draw(200, seed=2)


@pytest.mark.parametrize("text", ["", "0", "-1", "5:3", "x", "1:9999", "1.5"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="how long answers may be"):
        AnswerLengths.parse(text)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    times = poisson_arrivals_s(20.0, 20_000, seed=3)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert times[0] == 0.0
    assert mean == pytest.approx(1 / 20, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.03)  # exponential: deviation equals mean
