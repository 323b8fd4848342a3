"""From the timings of all requests to the figures of a run. Pure.

    output_tokens_per_s = tokens of answered requests / duration
    requests_per_s      = answered requests / duration
    goodput_per_s       = answered requests that kept the objective / duration
    duration            = from the first request's start to the last one's end

Percentiles interpolate linearly between ranks, as numpy's and `vllm bench serve` do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from splitvlm.tools.load.objective import ServiceObjective
from splitvlm.tools.load.timing import RequestTiming

PERCENTILES = (50, 95, 99)


def figures(timings: Sequence[RequestTiming], objective: ServiceObjective) -> dict[str, Any]:
    """Returns the run's figures as plain values: times in milliseconds, rates per second, sizes in bytes."""
    answered = [timing for timing in timings if timing.answered]
    duration_s = _duration_s(timings)
    tokens = sum(len(timing.token_times_s) for timing in answered)
    good = sum(map(objective.kept_by, timings))
    return {
        "requests": len(timings),
        "answered": len(answered),
        "failed": dict(Counter(timing.error_code for timing in timings if timing.error_code)),
        "duration_s": round(duration_s, 3),
        "requests_per_s": _rate(len(answered), duration_s),
        "output_tokens": tokens,
        "output_tokens_per_s": _rate(tokens, duration_s),
        "goodput_per_s": _rate(good, duration_s),
        "goodput_share": round(good / len(timings), 4) if timings else 0.0,
        "objective_ms": {name: 1e3 * most_s for name, most_s in objective.most_s.items()},
        "bytes_sent_per_request": round(sum(t.bytes_sent for t in answered) / len(answered)) if answered else 0,
        "ttft_ms": spread_ms([timing.ttft_s for timing in answered]),
        "itl_ms": spread_ms([gap_s for timing in answered for gap_s in timing.itl_s]),
        "tpot_ms": spread_ms([timing.tpot_s for timing in answered if len(timing.token_times_s) > 1]),
        "e2e_ms": spread_ms([timing.e2e_s for timing in answered]),
    }


def spread_ms(values_s: Sequence[float]) -> dict[str, float]:
    """Returns mean and percentiles in milliseconds; empty where there are no values."""
    if not values_s:
        return {}
    ordered = sorted(values_s)
    named = {f"p{rank}": percentile(ordered, rank) for rank in PERCENTILES}
    return {name: round(1e3 * value, 3) for name, value in {"mean": sum(ordered) / len(ordered), **named}.items()}


def percentile(ordered: Sequence[float], rank: float) -> float:
    """Returns the percentile of values in ascending order, of which there is at least one; `rank` is 0 to 100."""
    position = rank / 100 * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _duration_s(timings: Sequence[RequestTiming]) -> float:
    if not timings:
        return 0.0
    return max(timing.ended_s for timing in timings) - min(timing.started_s for timing in timings)


def _rate(count: int, duration_s: float) -> float:
    return round(count / duration_s, 3) if duration_s > 0 else 0.0
