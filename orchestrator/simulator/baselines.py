"""Contenders decide in a simulation: the nodes' own policy, what a user could fix by hand, the oracle that knows the trace."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.simulator.answer_costs import answer_s
from orchestrator.simulator.world import Contender, Decision, StartedRequest, World
from splitvlm.domain import IMAGE
from splitvlm.planning.costs import CostLine
from splitvlm.planning.policy import USUAL_OPTIONS, LinkView, Policy, PolicyOptions
from splitvlm.planning.table import PlanTable, deciding_rates


class Adaptive:
    """Decides by the policy and the estimator of the edge node, one pair a device."""

    measures = True

    def __init__(
        self, name: str, table: PlanTable, n_tokens: int, rtt_s: float, options: PolicyOptions = USUAL_OPTIONS
    ) -> None:
        self.name = name
        self._table = table
        self._n_tokens = n_tokens
        self._options = options
        self._lines = {(id(line.plan), line.cloud): line for line in table.lines}  # plans are slow to compare
        self._local = _fastest_local(table.lines, n_tokens)
        self._policies: dict[int, Policy] = {}
        self.deciding_bps = deciding_rates(table.lines, rtt_s, n_tokens)

    def decide(self, ask: StartedRequest) -> Decision:
        """Chooses by the edge node's own policy, from what the device has learnt of its link."""
        device = ask.device
        policy = self._policies.get(device.number)
        if policy is None:
            policy = self._policies[device.number] = Policy(self._options)
        assert device.estimator is not None
        link = device.estimator.estimate(ask.now_s)
        view = LinkView(link.uplink_bps, link.rtt_s, link.spread, link.peak_bps, link.forecast, link.tail_bps)
        choice = policy.pick(self._table, view, self._n_tokens, ask.now_s)
        if choice.plan is None:  # the day's bytes are used up and nothing runs on the device: the smallest plan waits
            line = min(self._table.lines, key=lambda line: line.payload_bytes)
            return Decision(line)
        line = self._lines[id(choice.plan), choice.cloud]
        policy.spent(line.payload_bytes, ask.now_s)
        if choice.hedge_after_s is None or self._local is None:
            return Decision(line, predicted_s=choice.predicted_s)
        return Decision(line, self._local, choice.hedge_after_s, choice.predicted_s)


class FixedPlan:
    """Always takes one plan, alone or with the device started beside it."""

    measures = False
    deciding_bps: Sequence[float] = ()

    def __init__(self, line: CostLine, hedge: CostLine | None = None) -> None:
        where = f" at {line.cloud}" if line.cloud else ""
        self.name = f"{line.plan}{where}" if hedge is None else f"hedge:{line.plan}{where}"
        self._decision = Decision(line, hedge)

    def decide(self, ask: StartedRequest) -> Decision:
        """Chooses the same plan for each request."""
        return self._decision


class Oracle:
    """Knows the trace, and takes the line of least latency for this very request.

    Of several devices' queues it knows nothing.
    """

    name = "oracle"
    measures = False
    deciding_bps: Sequence[float] = ()

    def __init__(self, world: World, lines: Sequence[CostLine]) -> None:
        self._world = world
        self._lines = lines

    def decide(self, ask: StartedRequest) -> Decision:
        """Chooses the plan whose answer ends first on the true trace."""
        return Decision(min(self._lines, key=lambda line: answer_s(self._world, ask, line)[1]))


def everyone(
    world: World, table: PlanTable, allowed: Sequence[CostLine], options: PolicyOptions
) -> Iterable[Contender]:
    """Yields all contenders. `allowed` are the lines that the limits leave, dominated ones among them: a user may fix any.

    Adaptive pictures come with and without a hedge: where the device can answer, they may use it as freely as we do.
    """
    yield Oracle(world, allowed)
    yield Adaptive("adaptive", table, world.n_tokens, world.rtt_s, options)
    yield Adaptive("adaptive-nohedge", table, world.n_tokens, world.rtt_s, replace(options, hedging=False))
    local = _fastest_local(allowed, world.n_tokens)
    for name, kinds in (("adaptive-jpeg", ("jpeg",)), ("adaptive-picture", ("jpeg", "webp"))):
        pictures = tuple(line for line in allowed if line.plan.cut == IMAGE and line.plan.level.startswith(kinds))
        if not pictures:
            continue
        yield Adaptive(name, PlanTable(1, pictures), world.n_tokens, world.rtt_s, replace(options, hedging=False))
        if local is not None:
            beside = PlanTable(1, (*pictures, local))
            yield Adaptive(f"hedge:{name}", beside, world.n_tokens, world.rtt_s, replace(options, hedging=True))
    for line in allowed:
        yield FixedPlan(line)
        if local is not None and not line.local:
            yield FixedPlan(line, local)


def _fastest_local(lines: Iterable[CostLine], n_tokens: int) -> CostLine | None:
    local = (line for line in lines if line.local)
    return min(local, key=lambda line: line.latency_s(math.inf, 0.0, n_tokens), default=None)
