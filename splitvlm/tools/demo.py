"""`splitvlm demo`: the whole system on one machine, as three processes over a shaped link.

Device and cloud are the same processor here and the embedded model is small, so the honest best plan would always be `device`.
The demo therefore EMULATES a weaker device: a memory limit that the whole model does not fit, and a slow-down of its stages.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from splitvlm.crypto.identity import Role
from splitvlm.domain import TOKENS, Conversation
from splitvlm.errors import UsageError
from splitvlm.evaluation.answers import Example, answers, normalised
from splitvlm.files.shown import number as shown_number
from splitvlm.host_port import host_and_port
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.tracefiles import load_living
from splitvlm.link.traces import Trace
from splitvlm.model.loading import load_whole, read_spec
from splitvlm.planning.limits import MAX_KIND_DROP
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.scenes import held_out
from splitvlm.tools.demo_plot import plot
from splitvlm.tools.launcher import Launcher
from splitvlm.wire.v1 import local_pb2 as pb

DELAY_S = 0.015  # one way: a cellular uplink's round trip without its queue is about 30 ms
CONTEXT_TOKENS = 128
MOST_DROP = 0.005  # half a point: the smallest pictures cost more than that
LOOPBACK = ("127.0.0.1", 0)
console = Console()


@dataclass(frozen=True)
class DemoQuestion:
    """Holds one question of the demo."""

    image: Image.Image
    question: str
    answer: str

    def coded(self, picture_format: str) -> bytes:
        """Returns the picture as a file of that format, JPEG at quality 75."""
        buffer = io.BytesIO()
        quality = {"quality": 75} if picture_format == "JPEG" else {}
        self.image.save(buffer, picture_format, **quality)
        return buffer.getvalue()


@dataclass(frozen=True)
class DemoAnswer:
    """Holds what came back: the plan, the report, the text, and when it was asked (seconds from the link's start)."""

    asked_at_s: float
    chosen: pb.Chosen
    report: pb.RequestReport
    text: str
    correct: bool
    jpeg_bytes: int


async def run_demo(
    seed: int, questions: int, trace: str, slowdown: float, every_s: float, out: Path, variants: Sequence[Path] = ()
) -> dict[str, object]:
    """Runs, prints, plots; returns the summary that `--json` writes. `variants` are folders of forms that the device has."""
    shaped = load_living(trace).up
    demo_questions = [DemoQuestion(scene.image, q.text, q.answer) for scene, q in held_out(questions, seed)]
    memory = read_spec("scenes").device_memory_bytes(TOKENS, "float32", CONTEXT_TOKENS)
    _introduce(trace, slowdown, memory, len(demo_questions))
    with tempfile.TemporaryDirectory(prefix="splitvlm-demo-") as folder:
        demo_answers, setup_s = await _ask_all(
            Path(folder), demo_questions, shaped, slowdown, memory, every_s, variants
        )
    unsplit = _unsplit(demo_questions)
    summary = _summary(demo_answers, unsplit, seed, slowdown)
    _print_summary(summary)
    picture = _plot(out, demo_answers, shaped, slowdown)
    console.print(f"Started in {setup_s:.1f} s. Plot: {picture}")
    return summary


async def _ask_all(
    folder: Path,
    demo_questions: Sequence[DemoQuestion],
    trace: Trace,
    slowdown: float,
    memory: int,
    every_s: float,
    variants: Sequence[Path],
) -> tuple[list[DemoAnswer], float]:
    started_s = time.perf_counter()
    async with Launcher(folder) as launcher:
        orchestrator = await launcher.start("orchestrator", {"heartbeat_s": 1.0})
        common = {"orchestrator": orchestrator.address, "variants": [str(path.absolute()) for path in variants]}
        cloud = await launcher.start("cloud", common | {"model": {"threads": 1}})
        async with LinkEmulator(LOOPBACK, host_and_port(cloud.address), LinkShape(trace, delay_s=DELAY_S)) as link:
            settings = edge_settings(f"127.0.0.1:{link.port}", slowdown, memory)
            edge = await launcher.start("edge", common | settings)
            client = EdgeClient(edge.address, launcher.identity("demo", Role.APP))
            try:
                await wait_for_table(client)
                setup_s = time.perf_counter() - started_s
                return await _ask_in_turn(client, demo_questions, link.t0_s, every_s), setup_s
            finally:
                await client.close()


async def _ask_in_turn(
    client: EdgeClient, demo_questions: Sequence[DemoQuestion], origin_s: float, every_s: float
) -> list[DemoAnswer]:
    """Asks one question at a time, at the camera's rate: the next one starts `every_s` after the last, or when that is
    answered.
    """
    demo_answers = []
    for number, question in enumerate(demo_questions, 1):
        due_s = time.monotonic() + every_s
        demo_answers.append(await _ask(client, question, number, len(demo_questions), origin_s))
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    return demo_answers


def edge_settings(link: str, slowdown: float, memory: int) -> dict[str, object]:
    """Returns the settings of the emulated device."""
    return {
        "cloud": link,
        "model": {"threads": 1},
        "planning": {
            "device_memory_bytes": memory,
            "expected_tokens": 4,
            "max_accuracy_drop": MOST_DROP,
            "max_kind_drop": MAX_KIND_DROP,
            "prefix_cache": False,  # each question by itself
        },
        "emulation": {"slowdown": slowdown},
    }


async def wait_for_table(client: EdgeClient) -> None:
    """Asks for the status until the first plan table is there; gives up with the status' own words."""
    for _ in range(200):
        status = await client.status()
        if status.plans and status.cloud_reachable:
            return
        await asyncio.sleep(0.1)
    raise UsageError("The edge node got no plan table within 20 s.", advice="Run again; SPLITVLM_DEBUG=1 shows more.")


async def _ask(client: EdgeClient, question: DemoQuestion, number: int, total: int, origin_s: float) -> DemoAnswer:
    asked_at_s = time.monotonic() - origin_s
    chosen, report, text = pb.Chosen(), pb.RequestReport(), ""
    async for message in client.ask(Conversation.about(question.question), [question.coded("PNG")]):
        match message.WhichOneof("body"):
            case "chosen":
                chosen = message.chosen
            case "report":
                report = message.report
            case "text":
                text += message.text
    answer = DemoAnswer(
        asked_at_s,
        chosen,
        report,
        text.strip(),
        normalised(text) == normalised(question.answer),
        len(question.coded("JPEG")),
    )
    _print_row(answer, question, number, total)
    return answer


def _unsplit(demo_questions: Sequence[DemoQuestion]) -> list[bool]:
    """Tells whether the unsplit model, by transformers' generate in this process, answers each question right."""
    network, processor = load_whole("scenes")
    examples = [Example(question.image, question.question, question.answer) for question in demo_questions]
    return [outcome.right for outcome in answers(network, processor, examples, lambda done: None)]


def _introduce(trace: str, slowdown: float, memory: int, questions: int) -> None:
    console.print(
        "[bold]splitvlm demo[/]: orchestrator, cloud node and edge node as processes, mutual TLS, sealed features."
    )
    console.print(
        f"[yellow]EMULATION[/]: the device has {memory / 2**20:.1f} MiB for the model (it does not fit whole), and its "
        f"stages are slowed down {slowdown:g} x. The link is emulated: {trace}, {2e3 * DELAY_S:.0f} ms round trip."
    )
    console.print(
        f"{questions} questions about pictures that the model never saw. Plans may cost {100 * MOST_DROP:g} points of "
        f"accuracy on average, and no more than {100 * MAX_KIND_DROP:g} of any kind of question.\n"
    )
    console.print(f"{'':>7}  {'uplink':>9}  {'plan':<18} {'bytes':>7} {'JPEG':>6}  {'first':>6} {'total':>6}   answer")


def _print_row(answer: DemoAnswer, question: DemoQuestion, number: int, total: int) -> None:
    report = answer.report
    mark = "[green]right[/]" if answer.correct else f"[red]wrong[/], it is {question.answer}"
    console.print(
        f"{number:>3}/{total:<3}  {answer.chosen.uplink_bps / 1e3:>5.0f} kb/s  {report.plan:<18} {report.bytes_sent:>7} "
        f"{answer.jpeg_bytes:>6}  {report.first_token_s * 1e3:>4.0f}ms {report.total_s * 1e3:>4.0f}ms   "
        f"{question.question} [bold]{answer.text}[/] {mark}",
        soft_wrap=True,
        highlight=False,
    )


def _summary(
    demo_answers: Sequence[DemoAnswer], unsplit: Sequence[bool], seed: int, slowdown: float
) -> dict[str, object]:
    latencies = sorted(answer.report.total_s for answer in demo_answers)
    return {
        "questions": len(demo_answers),
        "answered": sum(bool(answer.text) for answer in demo_answers),
        "correct": sum(answer.correct for answer in demo_answers),
        "unsplit_correct": sum(unsplit),
        "cuts": dict(Counter(answer.report.plan.partition("/")[0] for answer in demo_answers)),
        "plans": dict(Counter(answer.report.plan for answer in demo_answers)),
        "bytes_sent": sum(answer.report.bytes_sent for answer in demo_answers),
        "jpeg_bytes": sum(answer.jpeg_bytes for answer in demo_answers),
        "median_total_s": latencies[len(latencies) // 2],
        "max_total_s": latencies[-1],
        "seed": seed,
        "emulated_slowdown": slowdown,
    }


def _print_summary(summary: dict[str, object]) -> None:
    table = Table(title="Summary", show_header=False)
    for key, value in summary.items():
        table.add_row(key.replace("_", " "), _shown(value))
    console.print(table)


def _shown(value: object) -> str:
    """Writes a figure of the summary for people: `1,234`, `0.606`, `image 12, tokens 48`."""
    match value:
        case dict():
            return ", ".join(f"{name} {count}" for name, count in value.items())
        case float():
            return shown_number(value)
        case int():
            return f"{value:,}"
    return str(value)


def _plot(out: Path, demo_answers: Sequence[DemoAnswer], trace: Trace, slowdown: float) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        return plot(out / "demo.png", demo_answers, trace, slowdown, 2 * DELAY_S)
    except OSError as error:
        raise UsageError(
            f"Cannot write the plot to {out}: {error.strerror}.", advice="Choose another --out."
        ) from error
