"""A cost line with the length of an answer put in, and the time of one request under it."""

from __future__ import annotations

import math
from typing import NamedTuple

from orchestrator.simulator.world import StartedRequest, World
from splitvlm.planning.costs import CostLine


class AnswerCosts(NamedTuple):
    """Holds what an answer of a fixed length takes under one cost line, in seconds and bytes."""

    number: int
    name: str
    local: bool
    before_s: float  # device and encoding
    payload_bytes: int
    token_bytes: int
    cloud_first_s: float  # decoding and prefill
    first_s: float  # of a local line
    tokens_s: float
    trips_per_token: int
    cloud_rtt_s: float
    drop: float  # NaN is unknown: columns are plain numbers
    cloud: str


def answer_costs(line: CostLine, index: int, n_tokens: int) -> AnswerCosts:
    """Returns the costs of an answer of `n_tokens` under `line`, which is the `index`-th line of its run."""
    name = f"{line.plan} at {line.cloud}" if line.cloud else str(line.plan)
    return AnswerCosts(
        number=index,
        name=name,
        local=line.local,
        before_s=line.device_s + line.encode_s,
        payload_bytes=line.payload_bytes,
        token_bytes=line.token_bytes,
        cloud_first_s=line.decode_s + line.cloud_s,
        first_s=line.device_s,
        tokens_s=n_tokens * line.token_s,
        trips_per_token=line.trips_per_token,
        cloud_rtt_s=line.cloud_rtt_s,
        drop=math.nan if line.accuracy_drop is None else line.accuracy_drop,
        cloud=line.cloud,
    )


def answer_s(world: World, ask: StartedRequest, line: CostLine) -> tuple[float, float]:
    """Returns seconds from a request's start to its first and its last token, by the true trace and without a queue."""
    costs = answer_costs(line, 0, world.n_tokens)
    if costs.local:
        return costs.first_s, costs.first_s + costs.tokens_s
    device, trip_s = ask.device, ask.device.rtt_s + costs.cloud_rtt_s
    ready_s = ask.now_s + costs.before_s
    at_s = ready_s + device.deliver_s(ready_s, costs.payload_bytes * ask.size) + trip_s + costs.cloud_first_s
    done_s = at_s + costs.tokens_s
    if costs.trips_per_token:
        for _ in range(world.n_tokens):
            done_s += trip_s + device.deliver_s(done_s, costs.token_bytes)
    return at_s - ask.now_s, done_s - ask.now_s
