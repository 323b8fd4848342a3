"""Runs a scenario over its traces."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.simulator.baselines import Adaptive, everyone
from orchestrator.simulator.engine import simulate
from orchestrator.simulator.results import Comparison, Run, summarise
from orchestrator.simulator.scenario import Scenario
from orchestrator.simulator.world import Contender, World
from splitvlm.errors import UsageError
from splitvlm.link.tracefiles import load_living
from splitvlm.link.traces import LinkTrace
from splitvlm.planning.costs import CostLine
from splitvlm.planning.profiles import Profiles, scaled
from splitvlm.planning.table import PlanTable, build_table
from splitvlm.profiling.profile_file import read

SIZES = 101  # places of the size distribution that requests go through, in an order drawn once
NOT_SHOWN = "Not compared: a quantised device variant and random token drop, which this version does not have."


def compare(scenario: Scenario, *, traces: Sequence[str] = ()) -> Iterator[Comparison]:
    """Yields one comparison a trace. `traces` replace the scenario's. Raises UsageError, ConfigError."""
    profiles = read(scenario.profiles)
    lines = lines_of(scenario, profiles)
    limits = scenario.planning.limits()
    table = build_table(lines, limits, 1)
    allowed = [line for line in lines if not limits.forbidding(line)]
    for name in traces or scenario.link.traces:
        yield _over(scenario, profiles, table, allowed, name)


def lines_of(scenario: Scenario, profiles: Profiles) -> list[CostLine]:
    """Returns the cost lines of all clouds, scaled; the device's own ones once.

    Framing counts as payload. Raises UsageError.
    """
    _known_cuts(scenario, profiles)
    lines: dict[tuple[object, str], CostLine] = {}
    several = len(scenario.clouds) > 1
    for cloud in scenario.clouds:
        made = scaled(profiles, device_slowdown=scenario.devices.slowdown, cloud_speedup=cloud.speedup)
        for line in made.lines():
            if not line.local:
                line = replace(
                    line,
                    cloud=cloud.name if several else "",
                    cloud_rtt_s=cloud.rtt_s,
                    payload_bytes=line.payload_bytes + scenario.link.framing_bytes,
                    token_bytes=line.token_bytes + (scenario.link.framing_bytes if line.trips_per_token else 0),
                )
            lines.setdefault(line.key, line)
    return list(lines.values())


def _known_cuts(scenario: Scenario, profiles: Profiles) -> None:
    on_devices = {str(cut) for device in profiles.devices for cut in device.cuts}
    known = on_devices | {str(cut) for cloud in profiles.clouds for cut in cloud.cuts}
    for cut in scenario.planning.cuts:
        if cut not in known:
            raise UsageError(
                f"planning names the cut {cut}, which the profiles of {profiles.model} do not have.",
                advice=f"They have {', '.join(sorted(known))}.",
            )


def _over(
    scenario: Scenario, profiles: Profiles, table: PlanTable, allowed: Sequence[CostLine], trace: str
) -> Comparison:
    link = load_living(trace)
    world = world_of(scenario, profiles, allowed, link, trace)
    runs = [simulate(world, contender) for contender in _contenders(scenario, world, table, allowed)]
    oracle = next((run for run in runs if run.contender == "oracle"), None)
    oracle_mean_s = sum(oracle.latency_s) / len(oracle.latency_s) if oracle else None
    summaries = tuple(summarise(run, scenario.planning.deadline_s, oracle_mean_s) for run in runs)
    return Comparison(scenario.name, trace, notes_of(scenario, profiles), tuple(runs), summaries)


def _contenders(scenario: Scenario, world: World, table: PlanTable, allowed: Sequence[CostLine]) -> Iterator[Contender]:
    options = scenario.planning.policy_options()
    if scenario.contenders == "adaptive":
        yield Adaptive("adaptive", table, world.n_tokens, world.rtt_s, options)
        return
    yield from everyone(world, table, allowed, options)


def world_of(scenario: Scenario, profiles: Profiles, lines: Sequence[CostLine], link: LinkTrace, name: str) -> World:
    """Traces, arrivals and sizes: all that chance decides is drawn here, from the scenario's seed."""
    rng = random.Random(scenario.seed)
    count = scenario.devices.count
    offsets_s = [0.0] if count == 1 else [rng.uniform(0, link.up.duration_s) for _ in range(count)]
    several = len(scenario.clouds) > 1
    return World(
        trace=link.up,
        trace_name=name,
        lines=lines,
        workers={cloud.name if several else "": cloud.workers for cloud in scenario.clouds},
        n_tokens=scenario.requests.tokens,
        rtt_s=scenario.link.rtt_s,
        offsets_s=offsets_s,
        arrivals_s=[_arrivals(scenario, rng) for _ in range(count)],
        sizes=_sizes(profiles, rng),
        closed=scenario.arrivals.kind == "closed",
    )


def _arrivals(scenario: Scenario, rng: random.Random) -> Sequence[float]:
    kind, period_s, count = scenario.arrivals.kind, scenario.arrivals.period_s, scenario.arrivals.requests
    if kind == "closed":
        return [period_s] * count
    at_s = rng.uniform(0, period_s) if scenario.devices.count > 1 else 0.0
    times = []
    for _ in range(count):
        times.append(at_s)
        at_s += period_s if kind == "every" else rng.expovariate(1 / period_s) if period_s else 0.0
    return times


def _sizes(profiles: Profiles, rng: random.Random) -> list[float]:
    """Payloads against their median, as the picture levels were sampled; 1 where nothing was."""
    ratios = [
        size / sizes[len(sizes) // 2] for sizes in profiles.sizes.values() if sizes and sizes[0] for size in sizes
    ]
    if not ratios:
        return [1.0]
    ratios.sort()
    spread_ratios = [ratios[int(index * (len(ratios) - 1) / (SIZES - 1))] for index in range(SIZES)]
    rng.shuffle(spread_ratios)
    return spread_ratios


def notes_of(scenario: Scenario, profiles: Profiles) -> tuple[str, ...]:
    """Returns what a reader must know to believe the figures."""
    devices = scenario.devices
    clouds = "; ".join(
        f"{cloud.name}: {cloud.workers} x {cloud.speedup:g} times as fast ({cloud.stands_for})"
        for cloud in scenario.clouds
    )
    accuracy = {
        "measured": "Accuracy drops were measured on this model's labelled questions.",
        "borrowed": "Accuracy drops are borrowed from the embedded model at the same level: this model's answers mean nothing.",
        "none": "Accuracy drops are not known.",
    }[profiles.accuracy_source]
    return (
        f"Simulated: measured profiles of {profiles.model} ({profiles.machine}), scaled.",
        f"Device: {devices.slowdown:g} times as slow ({devices.stands_for}).",
        f"Cloud: {clouds}.",
        f"{scenario.requests.tokens} decoding steps an answer; {scenario.link.framing_bytes} bytes of framing a request.",
        accuracy,
        NOT_SHOWN,
    )


def oracle_plans(run: Run, least_share: float) -> int:
    """Returns how many plans the run used for at least that share of its requests."""
    counts = [0] * len(run.plans)
    for index in run.plan:
        counts[index] += 1
    return sum(count >= least_share * len(run.plan) for count in counts)
