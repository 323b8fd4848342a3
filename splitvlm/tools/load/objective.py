"""A service-level objective: what a request has to keep to count as good (`--goodput ttft:500,e2e:3000`, milliseconds)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from splitvlm.errors import UsageError
from splitvlm.tools.load.timing import RequestTiming

METRICS = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class ServiceObjective:
    """Holds upper bounds in seconds by metric. An empty one is kept by every request that was answered."""

    most_s: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> ServiceObjective:
        """Reads `ttft:500,tpot:100,e2e:3000`, in milliseconds; an empty text bounds nothing. Raises UsageError."""
        bounds: dict[str, float] = {}
        for entry in filter(None, text.split(",")):
            name, _, number = entry.strip().partition(":")
            bound_ms = _number(number)
            if name not in METRICS or name in bounds or not bound_ms > 0:
                raise UsageError(
                    f"'{entry[:40]}' is not a part of an objective.",
                    advice=f"Give each of {', '.join(METRICS)} at most once, with milliseconds: ttft:500,e2e:3000.",
                )
            bounds[name] = bound_ms / 1e3
        return cls(bounds)

    def kept_by(self, timing: RequestTiming) -> bool:
        """Returns True if the request was answered and is within every bound."""
        measured_s = {"ttft": timing.ttft_s, "tpot": timing.tpot_s, "e2e": timing.e2e_s}
        return timing.answered and all(measured_s[name] <= most_s for name, most_s in self.most_s.items())


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
