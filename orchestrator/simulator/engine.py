"""The events of a simulation: requests start, boundaries arrive at a cloud, answers come back.

One request at a time a device, in the order of their arrival; a cloud has a queue and `workers` model copies. A transfer
takes what the true integral of the trace says. A hedged request has two runs: the cloud answers from its first token on,
unless the device has finished by then; the other run ends there. The hot path is plain numbers: a fleet's run is a
million requests.
"""

from __future__ import annotations

import heapq
import math
from array import array
from typing import NamedTuple

from orchestrator.simulator.answer_costs import AnswerCosts, answer_costs
from orchestrator.simulator.results import Run
from orchestrator.simulator.world import Contender, Decision, Device, StartedRequest, World
from splitvlm.link.estimator import LinkEstimator
from splitvlm.link.probing import CALL_BYTES
from splitvlm.planning.costs import CostLine

FRAME_BYTES = 16 * 1024  # the transfer's first frame has arrived when the receiver's span begins (splitvlm.rpc.limits)
HANDSHAKE_BYTES = 1_200  # of a session's set-up, device to cloud
PROBE_LOOK_S = 0.5  # how often an edge node looks whether to probe


class _Sending(NamedTuple):
    """Holds a request between its upload and its answer."""

    ask: StartedRequest
    decision: Decision
    costs: AnswerCosts
    ready_s: float
    sent_s: float
    payload_bytes: float


def simulate(world: World, contender: Contender) -> Run:
    """Simulates every request of every device under one contender."""
    return _Simulation(world, contender).run()


class _Simulation:
    def __init__(self, world: World, contender: Contender) -> None:
        self._world = world
        self._contender = contender
        self._run = Run(contender.name, world.trace_name)
        self._costs: dict[int, AnswerCosts] = {}
        self._free = {cloud: [0.0] * count for cloud, count in world.workers.items()}
        self._devices = [
            Device(number, world.trace, offset_s, world.rtt_s, LinkEstimator() if contender.measures else None)
            for number, offset_s in enumerate(world.offsets_s)
        ]
        self._next = array("l", [0] * len(self._devices))
        self._events: list[tuple[float, int, _Sending | int]] = []
        self._order = 0

    def run(self) -> Run:
        for device in self._devices:
            if device.estimator is not None:
                self._shake_hands(device, device.estimator)
            self._await_next(device)
        while self._events:
            at_s, _, event = heapq.heappop(self._events)
            if isinstance(event, int):
                self._start(self._devices[event], at_s)
            else:
                self._at_cloud(event, at_s)
        self._run.probe_bytes = sum(device.probe_bytes for device in self._devices)
        return self._run

    def _push(self, at_s: float, event: _Sending | int) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_s, self._order, event))

    def _await_next(self, device: Device) -> None:
        request = self._next[device.number]
        arrivals = self._world.arrivals_s[device.number]
        if request < len(arrivals):
            self._push(max(device.free_s, self._arrival_s(device, request)), device.number)

    def _arrival_s(self, device: Device, request: int) -> float:
        arrival_s = self._world.arrivals_s[device.number][request]
        return device.free_s + arrival_s if self._world.closed else arrival_s

    def _start(self, device: Device, now_s: float) -> None:
        request = self._next[device.number]
        arrival_s = now_s if self._world.closed else self._world.arrivals_s[device.number][request]
        self._next[device.number] = request + 1
        size = self._world.sizes[(request + 7 * device.number) % len(self._world.sizes)]
        if device.estimator is not None:
            self._probe(device, now_s)
            device.schedule.asked(now_s)
        ask = StartedRequest(device, now_s, arrival_s, size)
        decision = self._contender.decide(ask)
        costs = self._costs_of(decision.line)
        if costs.local:
            first_s = now_s + costs.first_s
            self._done(ask, decision, costs, first_s, first_s + costs.tokens_s, 0.0, 0.0, True)
            return
        ready_s = now_s + costs.before_s
        payload_bytes = costs.payload_bytes * size
        sent_s = ready_s + device.deliver_s(ready_s, payload_bytes)
        sending = _Sending(ask, decision, costs, ready_s, sent_s, payload_bytes)
        at_cloud_s = sent_s + 0.5 * (device.rtt_s + costs.cloud_rtt_s)
        alone_s = self._device_done_s(ask, decision)
        if alone_s <= at_cloud_s:
            self._device_wins(sending, alone_s)
        else:
            self._push(at_cloud_s, sending)

    def _at_cloud(self, sending: _Sending, now_s: float) -> None:
        ask, decision, costs, ready_s, sent_s, payload_bytes = sending
        device, estimator = ask.device, ask.device.estimator
        trip_s = device.rtt_s + costs.cloud_rtt_s
        if estimator is not None:
            self._observe(estimator, device, payload_bytes, ready_s, sent_s)
        workers = self._free[costs.cloud]
        begin_s = max(now_s, workers[0])
        heapq.heapreplace(workers, begin_s + costs.cloud_first_s + costs.tokens_s)
        first_s = begin_s + costs.cloud_first_s + 0.5 * trip_s
        alone_s = self._device_done_s(ask, decision)
        if alone_s < first_s:
            self._device_wins(sending, alone_s)
            return
        done_s = first_s + costs.tokens_s
        if costs.trips_per_token:
            for _ in range(self._world.n_tokens):
                done_s += trip_s * costs.trips_per_token + device.deliver_s(done_s, costs.token_bytes)
        sent_bytes = payload_bytes + self._world.n_tokens * costs.token_bytes
        self._done(ask, decision, costs, first_s, done_s, sent_s - ready_s, sent_bytes, False)

    def _observe(
        self, estimator: LinkEstimator, device: Device, payload_bytes: float, ready_s: float, sent_s: float
    ) -> None:
        """Tells the estimator of a transfer what an edge node would tell it (edge_node.cloud.link)."""
        span_s, first = None, min(FRAME_BYTES, int(payload_bytes))
        if payload_bytes > FRAME_BYTES:
            span_s = sent_s - ready_s - device.deliver_s(ready_s, FRAME_BYTES)
        heard_s = sent_s + device.rtt_s
        estimator.on_transfer(int(payload_bytes), span_s, heard_s - ready_s, 0.0, heard_s, first_frame_bytes=first)

    def _device_wins(self, sending: _Sending, done_s: float) -> None:
        """Ends a request with the device's own answer, which goes out whole: until then the cloud's was waited for."""
        ask, decision, costs, ready_s, sent_s, payload_bytes = sending
        if done_s < sent_s:
            crossed = ask.device.trace.capacity_bytes(ask.device.offset_s + ready_s, ask.device.offset_s + done_s)
            sent_bytes = min(payload_bytes, max(0.0, crossed)) if done_s > ready_s else 0.0
            if ask.device.estimator is not None and done_s > ready_s:
                ask.device.estimator.on_stall(int(sent_bytes), done_s - ready_s, done_s)
        else:
            sent_bytes = payload_bytes
        sending_s = max(0.0, min(done_s, sent_s) - ready_s)
        self._done(ask, decision, costs, done_s, done_s, sending_s, sent_bytes, True)

    def _device_done_s(self, ask: StartedRequest, decision: Decision) -> float:
        if decision.hedge is None:
            return math.inf
        local = self._costs_of(decision.hedge)
        return ask.now_s + decision.hedge_after_s + local.first_s + local.tokens_s

    def _done(
        self,
        ask: StartedRequest,
        decision: Decision,
        costs: AnswerCosts,
        first_s: float,
        done_s: float,
        sending_s: float,
        sent_bytes: float,
        device_won: bool,
    ) -> None:
        device, run, energy = ask.device, self._run, self._world.energy
        device.free_s = done_s
        if not costs.local:
            device.schedule.sent(sent_bytes)
            device.quiet_s = first_s if device_won else done_s
        took_s = done_s - ask.now_s
        if costs.local:
            joules = energy.joules(took_s, 0.0, 0.0)
        elif decision.hedge is not None:
            alone_s = min(took_s, decision.hedge_after_s)
            beside_s = (done_s if device_won else first_s) - ask.now_s - alone_s
            compute_s = min(costs.before_s, alone_s) + max(0.0, beside_s)
            joules = energy.joules(compute_s, 0.0, max(0.0, took_s - compute_s), 8 * sent_bytes)
            joules += (energy.transmit_w - energy.wait_w) * sending_s
        else:
            wait_s = max(0.0, took_s - costs.before_s - sending_s)
            joules = energy.joules(costs.before_s, sending_s, wait_s, 8 * sent_bytes)
        run.device.append(device.number)
        run.arrival_s.append(ask.arrival_s)
        run.start_s.append(ask.now_s)
        run.plan.append(costs.number)
        run.hedged.append(decision.hedge is not None)
        run.device_won.append(device_won)
        run.latency_s.append(done_s - ask.arrival_s)
        run.first_token_s.append(first_s - ask.arrival_s)
        run.predicted_s.append(decision.predicted_s)
        run.payload_bytes.append(sent_bytes)
        run.energy_j.append(joules)
        run.accuracy_drop.append(self._costs_of(decision.hedge).drop if device_won and decision.hedge else costs.drop)
        if device.last_plan not in (-1, costs.number):
            run.switches += 1
        device.last_plan = costs.number
        self._await_next(device)

    def _shake_hands(self, device: Device, estimator: LinkEstimator) -> None:
        """Opens the session, as a node does at its start. Its bytes are counted apart."""
        estimator.on_rtt(device.rtt_s, -1.0)
        took_s = device.deliver_s(-1.0, HANDSHAKE_BYTES) + device.rtt_s
        estimator.on_transfer(HANDSHAKE_BYTES, None, took_s, 0.0, -1.0 + took_s)

    def _probe(self, device: Device, now_s: float) -> None:
        """Sends the probes between the last answer and now."""
        estimator, schedule = device.estimator, device.schedule
        assert estimator is not None
        at_s = device.quiet_s
        while True:
            at_s += PROBE_LOOK_S
            wait_s = schedule.wait_s(at_s, estimator)
            at_s += math.ceil(wait_s / PROBE_LOOK_S) * PROBE_LOOK_S if wait_s > 0 else 0.0
            if at_s >= now_s:
                return
            device.quiet_s = at_s
            at_s = self._probe_at(device, estimator, at_s)

    def _probe_at(self, device: Device, estimator: LinkEstimator, at_s: float) -> float:
        """Looks whether to probe, and probes. Returns when the answers are here."""
        schedule = device.schedule
        size = schedule.size(estimator.estimate(at_s), self._contender.deciding_bps, at_s)
        if not size and schedule.empty_wait_s(at_s, estimator) > 0:
            return at_s
        device.probe_bytes += CALL_BYTES
        at_s += device.deliver_s(at_s, CALL_BYTES) + device.rtt_s
        estimator.on_rtt(device.rtt_s, at_s)
        estimator.on_transfer(0, None, device.rtt_s, 0.0, at_s)
        if size:
            took_s = device.deliver_s(at_s, size) + device.rtt_s
            device.probe_bytes += size + CALL_BYTES
            schedule.spent(size)
            at_s += took_s
            estimator.on_transfer(size, None, took_s, 0.0, at_s, probe=True)
        return at_s

    def _costs_of(self, line: CostLine) -> AnswerCosts:
        costs = self._costs.get(id(line))
        if costs is None:
            costs = answer_costs(line, len(self._run.plans), self._world.n_tokens)
            self._costs[id(line)] = costs
            self._run.plans.append(costs.name)
        return costs
