"""Numbers of learned tables (leaks, accuracy, profiles), checked once where a file or a peer brings them.

A NaN is neither more nor less than any limit, so that a plan with one would pass them all; so would a negative leak.
"""

from __future__ import annotations

import math

from splitvlm.errors import UsageError


def number(value: object, name: str, most: float = math.inf) -> float:
    """Returns a finite number from 0 to `most`; `name` says in the error what it is. Raises UsageError."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 <= value <= most
    ):
        bound = "from 0" if most == math.inf else f"from 0 to {most:g}"
        raise UsageError(f"{name} is {str(value)[:40]}, and not a finite number {bound}.")
    return float(value)


def whole(value: object, name: str) -> int:
    """Returns a whole number from 0. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{name} is {str(value)[:40]}, and not a whole number from 0.")
    return value
