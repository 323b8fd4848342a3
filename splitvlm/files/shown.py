"""Shows figures to people with three digits that count, a unit, no exponent, and no minus before a zero."""

from __future__ import annotations


def number(value: float, digits: int = 3) -> str:
    """Writes a number for people: `0.0123`, `1.23`, `123`, `4,030`: so many digits that count, and thousands apart."""
    rounded = float(f"{value:.{digits}g}") + 0.0  # -0.0 becomes 0.0
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def rate(bps: float) -> str:
    """Writes a rate for people: `95 kbit/s`, `1.2 Mbit/s`."""
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if bps >= size * (1 - 5e-4):  # 999.6 kbit/s would be shown as 1,000
            return f"{number(bps / size)} {unit}"
    return f"{number(bps)} bit/s"


def fixed(value: float, decimals: int) -> str:
    """Writes a number with so many decimals: `0.0`, never `-0.0`; thousands apart."""
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"


def percent(share: float, decimals: int = 1) -> str:
    """Writes a share of 0..1 as `12.3 %`; from ten times on as a multiple, `41 x`, which people can read."""
    return f"{number(1 + share)} x" if share >= 10 else f"{fixed(100 * share, decimals)} %"


def shown_or_unknown(value: float | None, factor: float, decimals: int) -> str:
    """Returns `unknown` for what nobody measured, else the value times the factor with so many decimals."""
    return "unknown" if value is None else fixed(factor * value, decimals)
