"""Figures for people: no minus before a zero, no exponent, no percentage that nobody can read."""

import pytest

from splitvlm.files.shown import fixed, number, percent, rate


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.0, "0"), (0.01234, "0.0123"), (12.345, "12.3"), (999.6, "1,000"), (4029.7, "4,030")]
)
def test_numbers(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(-0.0001, "0.0 %"), (0.0, "0.0 %"), (0.123, "12.3 %"), (-0.02, "-2.0 %"), (40.29, "41.3 x")]
)
def test_shares(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("bps", "shown"),
    [(0, "0 bit/s"), (950, "950 bit/s"), (95_000, "95 kbit/s"), (999_900, "1 Mbit/s"), (1.25e9, "1.25 Gbit/s")],
)
def test_rates(bps: float, shown: str) -> None:
    assert rate(bps) == shown


def test_decimals() -> None:
    assert (fixed(-0.001, 2), fixed(1234.5, 1)) == ("0.00", "1,234.5")
