"""`splitvlm VERB`: the one composition root. Imports what a verb needs when the verb runs, so that `--help` is quick."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from splitvlm.cli_config import config_app
from splitvlm.cli_keys import keys_app
from splitvlm.errors import SplitvlmError, UsageError

app = typer.Typer(
    help="Edge-cloud split inference for vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys_app, name="keys")
app.add_typer(config_app, name="config")

# Typer brings its own copy of click since 0.26, and has no public name for the base of its usage errors.
_WrongUse: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="YAML file")]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="also write the result to this file; alone or `-`: to standard output, all else to standard error",
    ),
]


def main() -> None:
    """Run a verb. Every expected failure is one sentence on standard error and an exit code of its kind."""
    arguments = _arguments(sys.argv[1:])
    aside = contextlib.redirect_stdout(sys.stderr) if _piped(arguments) else contextlib.nullcontext()
    try:
        with aside:
            sys.exit(app(arguments, standalone_mode=False) or 0)
    except SplitvlmError as error:
        _fail(str(error), error.exit_code)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except typer.Abort:
        _fail("Stopped.", 130)
    except _WrongUse as error:
        message = error.format_message()
        if not message:  # no verb at all: the help was printed
            sys.exit(2)
        _fail(f"{message} Try `splitvlm --help`.", 2)
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get("SPLITVLM_DEBUG"):
            raise
        _fail(f"Unexpected {type(error).__name__}: {error}. SPLITVLM_DEBUG=1 shows where.", 1)


def _fail(sentence: str, exit_code: int) -> None:
    print(f"splitvlm: {sentence}", file=sys.stderr)
    sys.exit(exit_code)


def _serve(run: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(run)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


@app.command()
def cloud(config: ConfigOption) -> None:
    """Run a cloud node: the upper part of the model."""
    from cloud_node.node import run
    from cloud_node.settings import CloudSettings
    from splitvlm import logs, settings

    chosen = settings.load(config, CloudSettings)
    logs.set_up(chosen.logging)
    _serve(run(chosen, config))


@app.command()
def edge(config: ConfigOption) -> None:
    """Run an edge node: the device daemon."""
    from edge_node.node import run
    from edge_node.settings import EdgeSettings
    from splitvlm import logs, settings

    chosen = settings.load(config, EdgeSettings)
    logs.set_up(chosen.logging)
    _serve(run(chosen, config))


@app.command()
def orchestrator(config: ConfigOption) -> None:
    """Run the orchestrator: who is alive, and the plan tables."""
    from orchestrator.node import run
    from orchestrator.settings import OrchestratorSettings
    from splitvlm import logs, settings

    chosen = settings.load(config, OrchestratorSettings)
    logs.set_up(chosen.logging)
    _serve(run(chosen, config))


@app.command()
def ask(
    picture: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP")],
    question: Annotated[str, typer.Argument(help="what to ask about it")],
    edge_address: Annotated[str, typer.Option("--edge", help="host:port of the edge node")] = "127.0.0.1:7443",
    keys: Annotated[Path, typer.Option("--keys", help="folder of this application's keys")] = Path("keys/app"),
    plan: Annotated[str, typer.Option(help="use this plan, e.g. tokens/int4; else the node chooses")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="0 is the node's default")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say the plan, the bytes and the times")] = False,
    plaintext: Annotated[bool, typer.Option(help="no TLS; loopback only")] = False,
) -> None:
    """Ask the edge node one question about a picture; the answer streams to standard output."""
    from splitvlm.ask import ask_once
    from splitvlm.crypto.identity import load_identity

    identity = None if plaintext else load_identity(keys)
    asyncio.run(ask_once(picture, question, edge_address, identity, plan, max_new_tokens, verbose=verbose))


@app.command()
def models(json_file: JsonOption = None) -> None:
    """List the models that can be named, with their layers and sizes."""
    from splitvlm.model.listing import rows, table

    listed = rows()
    from rich.console import Console

    Console().print(table(listed))
    _write_json(json_file, listed)


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, scenes, or shape:ID")] = "scenes",
    cuts: Annotated[str, typer.Option(help="comma-separated; empty is every cut")] = "",
    questions: Annotated[int, typer.Option(min=1, max=1000, help="questions at each cut")] = 2,
    tokens: Annotated[int, typer.Option(min=1, max=512, help="tokens of each answer")] = 16,
    json_file: JsonOption = None,
) -> None:
    """Compare the tokens of split and unsplit answers at every cut; exits 1 on a difference."""
    from splitvlm.verify import verify_model

    wanted = [text for text in cuts.split(",") if text]
    result = asyncio.run(verify_model(model, wanted, questions, tokens))
    _write_json(json_file, result)
    if not result["exact"]:
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, scenes, or shape:ID")] = "scenes",
    data: Annotated[Path | None, typer.Option(help="JSON lines with image, question, answer, kind")] = None,
    questions: Annotated[int, typer.Option(min=1, help="held-out questions, without --data")] = 20_000,
    seed: Annotated[int, typer.Option()] = 0,
    plans: Annotated[
        bool,
        typer.Option("--plans", help="measure every codec level of the middle cuts instead, split as the nodes do"),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Measure a model's accuracy by kind of question, beside the majority answer and a blank picture."""
    from splitvlm.evaluate import evaluate_model, evaluate_plans

    measure = evaluate_plans if plans else evaluate_model
    _write_json(json_file, measure(model, data, questions, seed))


@app.command()
def leak(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, or scenes")] = "scenes",
    cuts: Annotated[str, typer.Option(help="comma-separated; empty is all")] = "",
    levels: Annotated[str, typer.Option(help="comma-separated codec levels; empty is a few of each kind")] = "",
    teaching: Annotated[int, typer.Option(min=16, help="pictures that each attacker learns from")] = 400,
    questions: Annotated[int, typer.Option(min=1, help="held-out questions that reconstructions are judged by")] = 400,
    seed: Annotated[int, typer.Option()] = 0,
    plot: Annotated[Path, typer.Option(help="PNG with pictures and what came back of them")] = Path("out/leak.png"),
    json_file: JsonOption = None,
) -> None:
    """Measure what an attacker gets back of a picture from what crosses each cut."""
    from splitvlm.leak.command import leak as measure

    _write_json(json_file, measure(model, _listed(cuts), _listed(levels), teaching, questions, seed, plot))


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, or scenes")] = "scenes",
    images: Annotated[Path | None, typer.Option(help="folder of pictures like those that will be asked about")] = None,
    number: Annotated[int, typer.Option(min=1, max=100_000, help="of pictures, at most")] = 300,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="of training; twice as many save some percent")] = 3000,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; by default one for each core")] = None,
) -> None:
    """Learn the codec's calibrated levels for a model from pictures without labels."""
    from splitvlm.calibration import calibrate as learn

    path = learn(model, images, number, workers or os.cpu_count() or 1, steps)
    print(f"Calibration written to {path}. Give every node the same file.")


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, scenes, or shape:ID")] = "scenes",
    out: Annotated[Path | None, typer.Option(help="JSON file for `splitvlm plan` and `splitvlm simulate`")] = None,
    pictures: Annotated[int, typer.Option(min=1, max=10_000, help="whose payload sizes are sampled")] = 24,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="torch threads")] = None,
) -> None:
    """Measure both sides of a model on this machine: stages, codec levels, payload sizes."""
    from splitvlm import settings
    from splitvlm.measure import profile as measure

    raw: dict[str, object] = {"name": model, "device": device, "dtype": dtype, "threads": threads}
    measure(settings.parse(raw, settings.ModelChoice, source="splitvlm profile"), pictures, out)


@app.command()
def plan(
    profiles: Annotated[Path, typer.Argument(help="file written by `splitvlm profile`")],
    rtt_ms: Annotated[float, typer.Option(min=0)] = 50.0,
    tokens: Annotated[int, typer.Option(min=0, help="decoding steps of an answer")] = 8,
    slowdown: Annotated[float, typer.Option(min=0.001, help="of the device, against the profile")] = 1.0,
    speedup: Annotated[float, typer.Option(min=0.001, help="of the cloud, against the profile")] = 1.0,
    max_accuracy_drop: Annotated[float | None, typer.Option(min=0, max=1, help="0.01 is one point")] = None,
    privacy_floor: Annotated[str | None, typer.Option(help="shallowest cut allowed, or the most that may leak")] = None,
    device_memory_bytes: Annotated[int | None, typer.Option(min=1)] = None,
    every: Annotated[bool, typer.Option("--all", help="also name what was left out")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="why, with numbers")] = False,
    png: Annotated[Path | None, typer.Option(help="a picture of the cost lines")] = None,
    json_file: JsonOption = None,
) -> None:
    """Print for which uplink rates each plan is the fastest."""
    from rich.console import Console

    from orchestrator.plan_view import as_json, draw, show, view
    from splitvlm.planning.profilefiles import read, scaled
    from splitvlm.planning.table import Limits, parse_floor

    limits = Limits(
        max_accuracy_drop=max_accuracy_drop,
        device_memory_bytes=device_memory_bytes,
        privacy_floor=parse_floor(privacy_floor),
    )
    made = scaled(read(profiles), device_slowdown=slowdown, cloud_speedup=speedup)
    seen = view(made, limits, rtt_ms / 1e3, tokens)
    show(seen, Console(), every=every, explain=explain)
    if png is not None:
        draw(seen, png)
    _write_json(json_file, as_json(seen))


@app.command()
def simulate(
    config: Annotated[Path, typer.Argument(help="scenario file, see examples/simulate-*.yaml")],
    trace: Annotated[list[str] | None, typer.Option(help="instead of the scenario's traces; may be repeated")] = None,
    out: Annotated[Path, typer.Option(help="folder for CSV, JSON, plots and the page")] = Path("out"),
    emulate: Annotated[
        bool,
        typer.Option("--emulate", help="also run the workload through real processes over a shaped link, and compare"),
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Replay traces under the policy, every fixed plan, JPEG by the link and the oracle. All times are simulated."""
    from rich.console import Console

    from orchestrator.simulator.page import write_report
    from orchestrator.simulator.results import Comparison
    from orchestrator.simulator.run import compare
    from orchestrator.simulator.scenario import Scenario
    from orchestrator.simulator.show import save, show, stem
    from splitvlm import settings

    console = Console()
    if emulate:
        from splitvlm.emulation import emulate as really

        _write_json(json_file, really(settings.load(config, Scenario), trace or (), console))
        return
    comparisons: list[Comparison] = []
    for comparison in compare(settings.load(config, Scenario), traces=trace or ()):
        if not comparisons:
            for note in comparison.notes:
                console.print(note, soft_wrap=True, highlight=False)
        comparisons.append(comparison)
        show(comparison, console)
        save(comparison, out)
    *_, page = write_report(comparisons, out, stem)
    console.print(f"Requests, figures and plots are in {out}; the report is {page}.", soft_wrap=True, highlight=False)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="of the pictures and questions")] = 7,
    questions: Annotated[int, typer.Option(min=1, max=10_000)] = 60,
    trace: Annotated[str, typer.Option(help="a trace file, synthetic:NAME or constant:RATE")] = "synthetic:far",
    slowdown: Annotated[
        float, typer.Option(min=1, help="EMULATION: the device's stages take so many times as long")
    ] = 5.0,
    every: Annotated[float, typer.Option(min=0, help="seconds from one question to the next: the camera's rate")] = 1.0,
    out: Annotated[Path, typer.Option(help="folder for the plot")] = Path("out"),
    json_file: JsonOption = None,
) -> None:
    """Run the whole system on this machine: three processes, a shaped link, questions about drawn pictures."""
    from splitvlm.demo import run_demo

    _write_json(json_file, asyncio.run(run_demo(seed, questions, trace, slowdown, every, out)))


@app.command()
def draw(
    domain: Annotated[str, typer.Argument(help="microscopy, aerial, road or orchard")],
    file: Annotated[Path, typer.Argument(help="where the picture goes: .png, .jpg or .webp")],
    seed: Annotated[int, typer.Option(min=0, help="the same seed draws the same picture")] = 0,
) -> None:
    """Draw a picture of the kind that the embedded model knows, and print questions about it with their answers."""
    from splitvlm import scenes

    if domain not in scenes.DOMAINS:
        raise UsageError(f"'{domain}' is not a domain.", advice=f"Domains are {', '.join(scenes.DOMAINS)}.")
    scene = scenes.draw(domain, seed)
    try:
        scene.image.save(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot write {file}: {error}.", advice="Name a .png, .jpg or .webp file.") from error
    for question in scenes.ask(scene, seed):
        print(f"{question.text} {question.answer}")


@app.command()
def link(
    trace: Annotated[str, typer.Option(help="a trace file, synthetic:NAME or constant:RATE")],
    upstream: Annotated[str, typer.Option(help="host:port to forward to")],
    listen: Annotated[str, typer.Option(help="host:port")] = "127.0.0.1:0",
    down: Annotated[str | None, typer.Option(help="trace of the downlink; else the file's own, or 100 Mbit/s")] = None,
    delay_ms: Annotated[float | None, typer.Option(min=0, help="one way; else the file's own, or 0")] = None,
    log: Annotated[Path | None, typer.Option(help="write the deliveries to this CSV file at the end")] = None,
) -> None:
    """Emulate a link: a TCP proxy shaped by a recorded or synthetic trace."""
    from splitvlm.link.emulator import run
    from splitvlm.settings import host_and_port

    delay_s = None if delay_ms is None else delay_ms / 1e3
    asyncio.run(run(host_and_port(listen), host_and_port(upstream), trace, delay_s=delay_s, down=down, log_file=log))


def _arguments(given: list[str]) -> list[str]:
    """With `-` after each `--json` that names no file: typer's options take a value always."""
    following = [*given[1:], "--"]
    return [
        part
        for one, then in zip(given, following, strict=True)
        for part in ((one, "-") if one == "--json" and then.startswith("--") else (one,))
    ]


def _piped(arguments: list[str]) -> bool:
    return ("--json", "-") in itertools.pairwise(arguments)


def _write_json(file: Path | None, result: object) -> None:
    if file is None:
        return
    if str(file) == "-":
        assert sys.__stdout__ is not None
        print(json.dumps(result, indent=2), file=sys.__stdout__, flush=True)
        return
    try:
        file.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write {file}: {error.strerror}.", advice="Choose another --json file.") from error


if __name__ == "__main__":
    main()
