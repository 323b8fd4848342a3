"""`splitvlm simulate --emulate`: the same workload through real processes and a shaped link, beside its simulation.

The device is EMULATED by the scenario's slow-down; a cloud that is faster than this machine cannot be, so its speed-up is
left out on both sides. The simulation gets what was measured here: profiles of this machine, and what a request costs
beyond its line (gRPC, sealing, scheduling), from a few requests over a fast link.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean, median

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from orchestrator.simulator.baselines import Adaptive
from orchestrator.simulator.engine import simulate
from orchestrator.simulator.results import Record
from orchestrator.simulator.run import lines_of
from orchestrator.simulator.scenario import Scenario
from orchestrator.simulator.world import World
from splitvlm.crypto.identity import Role
from splitvlm.domain import DEVICE, IMAGE, TOKENS, Conversation
from splitvlm.errors import PeerUnavailable, UsageError
from splitvlm.host_port import host_and_port
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.tracefiles import load_living
from splitvlm.link.traces import Trace
from splitvlm.planning.costs import CostLine
from splitvlm.planning.profiles import Profiles
from splitvlm.planning.settings import Planning
from splitvlm.planning.table import build_table
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.scenes import held_out
from splitvlm.settings import ModelChoice
from splitvlm.tools.launcher import Launcher, Node
from splitvlm.tools.profile import profile
from splitvlm.wire.v1 import local_pb2 as pb

CUTS = (IMAGE, TOKENS, DEVICE)
FAST_BPS = 1e8  # the link while the overhead is measured
PAUSE_S = 0.5  # between them, as in the run
BY_ITSELF = {"prefix_cache": False}  # the simulator knows no prefix cache
UNLOADED = 6  # requests of each plan over it
LOOPBACK = ("127.0.0.1", 0)
PICTURES = 24


@dataclass(frozen=True)
class RealRequest:
    """Records one request as it really was."""

    asked_s: float  # on the link's clock
    plan: str
    latency_s: float
    device_won: bool


def emulate(scenario: Scenario, traces: Sequence[str], console: Console) -> list[dict[str, object]]:
    """Runs, prints and returns one comparison a trace. Raises UsageError for scenarios of several devices or clouds."""
    if scenario.devices.count > 1 or len(scenario.clouds) > 1:
        raise UsageError(
            "An emulated run has one device and one cloud.", advice="Set devices.count to 1, name one cloud."
        )
    if scenario.arrivals.kind != "every":
        raise UsageError("An emulated run asks at a camera's rate.", advice="Set arrivals.kind to `every`.")
    alone = scenario.model_copy(update={"clouds": [scenario.clouds[0].model_copy(update={"speedup": 1.0})]})
    links = {name: load_living(name).up for name in traces or scenario.link.traces}
    profiles = profile(ModelChoice(name="scenes", threads=1), PICTURES, None)
    results = []
    for name, link in links.items():
        with tempfile.TemporaryDirectory(prefix="splitvlm-emulate-") as folder:
            real_requests, overhead_s = asyncio.run(_really(Path(folder), alone, profiles, link, console))
        simulated = _simulated(alone, profiles, link, name, overhead_s, real_requests[0].asked_s)
        results.append(_compared(name, real_requests, simulated, overhead_s, console))
    return results


async def _really(
    folder: Path, scenario: Scenario, profiles: Profiles, trace: Trace, console: Console
) -> tuple[list[RealRequest], dict[str, float]]:
    """Runs the requests through an orchestrator, a cloud node and an edge node; returns also the overhead of each plan (s)."""
    async with Launcher(folder) as launcher:
        orchestrator = await launcher.start("orchestrator", {"heartbeat_s": 1.0})
        cloud = await launcher.start("cloud", {"orchestrator": orchestrator.address, "model": {"threads": 1}})
        fast, upstream = Trace.constant(FAST_BPS), host_and_port(cloud.address)
        async with LinkEmulator(LOOPBACK, upstream, LinkShape(fast, delay_s=scenario.link.rtt_s / 2)) as link:
            questions = _questions(scenario)
            app = launcher.identity("emulate", Role.APP)

            async def edge(name: str) -> tuple[Node, EdgeClient]:
                settings = _edge_settings(name, scenario, orchestrator.address, f"127.0.0.1:{link.port}")
                node = await launcher.start("edge", settings)
                return node, EdgeClient(node.address, app)

            node, client = await edge("edge-unloaded")
            try:
                overhead_s = await _overhead(client, scenario, profiles, await _plans(client), questions)
            finally:
                await client.close()
                await node.stop()
            link.up.bottleneck.turn(trace)
            _, client = await edge("edge-1")  # a fresh one: its estimate of the link begins as the simulation's does
            try:
                await _plans(client)
                return await _ask_all(client, scenario, questions, link.t0_s, console), overhead_s
            finally:
                await client.close()


def _edge_settings(name: str, scenario: Scenario, orchestrator: str, link: str) -> dict[str, object]:
    planning = scenario.planning.model_dump(include=set(Planning.model_fields) - {"cuts"})
    max_leak = scenario.planning.max_leak
    return {
        "node": name,
        "orchestrator": orchestrator,
        "cloud": link,
        "model": {"threads": 1},
        "planning": {**planning, "cuts": list(map(str, CUTS)), "expected_tokens": scenario.requests.tokens} | BY_ITSELF,
        "privacy": {} if max_leak is None else {"mode": "max_leak", "max_leak": max_leak},
        "emulation": {"slowdown": scenario.devices.slowdown},
    }


async def _plans(client: EdgeClient) -> list[str]:
    for _ in range(300):
        status = await client.status()
        if status.plans and status.cloud_reachable:
            return [row.plan for row in status.plans]
        await asyncio.sleep(0.1)
    raise PeerUnavailable("The edge node got no plan table within 30 s.", advice="Run again on a quieter machine.")


def _questions(scenario: Scenario) -> list[tuple[bytes, str]]:
    """Returns questions whose answers are one word, so that every answer takes the same number of steps."""
    questions: list[tuple[bytes, str]] = []
    number = scenario.arrivals.requests
    for scene, question in islice(held_out(8 * number, scenario.seed), 8 * number):
        if " " not in question.answer and len(questions) < number:
            store = io.BytesIO()
            scene.image.save(store, "PNG")
            questions.append((store.getvalue(), question.text))
    return questions


async def _overhead(
    client: EdgeClient,
    scenario: Scenario,
    profiles: Profiles,
    plans: Sequence[str],
    questions: Sequence[tuple[bytes, str]],
) -> dict[str, float]:
    """Returns seconds beyond the line of each plan, unloaded, over the fast link."""
    lines = {str(line.plan): line for line in lines_of(scenario, profiles)}
    overhead_s = {}
    for plan in plans:
        extra = []
        for picture, question in questions[:UNLOADED]:
            await asyncio.sleep(PAUSE_S)
            report = await _ask(client, picture, question, plan)
            line_s = lines[plan].latency_s(FAST_BPS, scenario.link.rtt_s, scenario.requests.tokens)
            extra.append(report.total_s - line_s)
        overhead_s[plan] = median(extra)
    return overhead_s


async def _ask_all(
    client: EdgeClient, scenario: Scenario, questions: Sequence[tuple[bytes, str]], t0_s: float, console: Console
) -> list[RealRequest]:
    real_requests = []
    began_s = time.monotonic()
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("Asking, really", total=len(questions))
        for number, (picture, question) in enumerate(questions):
            await asyncio.sleep(max(0.0, began_s + number * scenario.arrivals.period_s - time.monotonic()))
            asked_s = time.monotonic() - t0_s
            report = await _ask(client, picture, question, "")
            real_requests.append(RealRequest(asked_s, report.plan, report.total_s, report.answered_by == "device"))
            progress.update(bar, advance=1)
    return real_requests


async def _ask(client: EdgeClient, picture: bytes, question: str, plan: str) -> pb.RequestReport:
    report = pb.RequestReport()
    async for message in client.ask(Conversation.about(question), [picture], plan=plan):
        if message.WhichOneof("body") == "report":
            report = message.report
    return report


def _simulated(
    scenario: Scenario, profiles: Profiles, link: Trace, name: str, overhead_s: Mapping[str, float], began_s: float
) -> list[Record]:
    """Simulates the arrivals that the processes had, over the stretch of the trace that they ran on."""
    limits = replace(scenario.planning.limits(), cuts=frozenset(CUTS))
    lines = [_with_overhead(line, overhead_s) for line in lines_of(scenario, profiles)]
    table = build_table(lines, limits, 1)
    count, period_s = scenario.arrivals.requests, scenario.arrivals.period_s
    world = World(
        trace=link,
        trace_name=name,
        lines=table.lines,
        workers={"": 1},
        n_tokens=scenario.requests.tokens,
        rtt_s=scenario.link.rtt_s,
        offsets_s=[began_s],
        arrivals_s=[[number * period_s for number in range(count)]],
        sizes=[1.0],
    )
    return list(simulate(world, Adaptive("adaptive", table, world.n_tokens, world.rtt_s)).records())


def _with_overhead(line: CostLine, overhead_s: Mapping[str, float]) -> CostLine:
    """Fills in, where a plan was not measured, the median of those that were."""
    extra_s = overhead_s.get(str(line.plan), median(overhead_s.values()))
    if line.plan.cut == DEVICE:
        return replace(line, device_s=max(0.0, line.device_s + extra_s))
    return replace(line, cloud_s=max(0.0, line.cloud_s + extra_s))


def _compared(
    name: str,
    real_requests: Sequence[RealRequest],
    simulated: Sequence[Record],
    overhead_s: Mapping[str, float],
    console: Console,
) -> dict[str, object]:
    real_s, sim_s = fmean(run.latency_s for run in real_requests), fmean(run.latency_s for run in simulated)
    title = f"{Path(name).name}: simulated against real processes"
    table = Table("plan", "simulated", "mean s", "really", "mean s", title=title, title_justify="left")
    plans: dict[str, dict[str, float]] = {}
    for plan in sorted({*(run.plan for run in real_requests), *(run.plan for run in simulated)}):
        simulated_s = [run.latency_s for run in simulated if run.plan == plan]
        real_run_s = [run.latency_s for run in real_requests if run.plan == plan]
        row = [
            len(simulated_s),
            fmean(simulated_s) if simulated_s else 0.0,
            len(real_run_s),
            fmean(real_run_s) if real_run_s else 0.0,
        ]
        plans[plan] = dict(zip(("simulated", "simulated_mean_s", "real", "real_mean_s"), row, strict=True))
        table.add_row(plan, str(row[0]), f"{row[1]:.3f}", str(row[2]), f"{row[3]:.3f}")
    console.print(table)
    extra = ", ".join(f"{plan} {1e3 * seconds:.0f}" for plan, seconds in overhead_s.items())
    console.print(f"Added to the lines, as measured unloaded over a fast link, ms: {extra}", soft_wrap=True)
    won = [sum(run.device_won for run in simulated), sum(run.device_won for run in real_requests)]
    console.print(f"Answered by the device: simulated {won[0]}, really {won[1]}")
    difference = f"{100 * (sim_s / real_s - 1):+.1f} %"
    console.print(
        f"{len(real_requests)} requests: simulated mean {sim_s:.3f} s, real mean {real_s:.3f} s, difference {difference}"
    )
    return {
        "trace": name,
        "requests": len(real_requests),
        "simulated_mean_s": sim_s,
        "real_mean_s": real_s,
        "difference": sim_s / real_s - 1,
        "overhead_s": dict(overhead_s),
        "plans": plans,
    }
