"""`splitvlm models`, `verify`, `evaluate`, `leak`, `calibrate`, `profile`: what is known and measured of a model."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import BundleOption, SeedOption, writable_file
from splitvlm.cli.output import JsonOption, write_json
from splitvlm.errors import UsageError

models_app = typer.Typer()


@models_app.command()
def models(json_file: JsonOption = None) -> None:
    """List the models that can be named, with their layers and sizes."""
    from splitvlm.model.catalog import rows, table

    listed = rows()
    from rich.console import Console

    Console().print(table(listed))
    write_json(json_file, listed)


@models_app.command()
def verify(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, scenes, or shape:ID")] = "scenes",
    cuts: Annotated[str, typer.Option(help="cuts to compare, comma-separated; by default every cut")] = "",
    questions: Annotated[int, typer.Option(min=1, max=1000, help="number of questions at each cut")] = 2,
    tokens: Annotated[int, typer.Option(min=1, max=512, help="most tokens of each answer")] = 16,
    families: Annotated[bool, typer.Option("--families", help="a tiny model of each family instead")] = False,
    json_file: JsonOption = None,
) -> None:
    """Compare the tokens of split and unsplit answers at every cut.

    The exit code is 1 where they differ.
    """
    from splitvlm.tools.verify import verify_model
    from splitvlm.tools.verify_families import verify_families

    wanted = [text for text in cuts.split(",") if text]
    result = asyncio.run(verify_families() if families else verify_model(model, wanted, questions, tokens))
    write_json(json_file, result)
    if not result["exact"]:
        raise typer.Exit(1)


@models_app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, scenes, or shape:ID")] = "scenes",
    data: Annotated[Path | None, typer.Option(help="file of JSON lines with image, question, answer and kind")] = None,
    questions: Annotated[int, typer.Option(min=1, help="number of held-out questions, without --data")] = 20_000,
    seed: SeedOption = 0,
    plans: Annotated[
        bool,
        typer.Option("--plans", help="measure each codec level of image, tokens and the two middle cuts instead"),
    ] = False,
    cuts: Annotated[str, typer.Option(help="with --plans: measure these cuts only, comma-separated")] = "",
    levels: Annotated[str, typer.Option(help="with --plans: measure these codec levels only, beside lossless")] = "",
    kinds: Annotated[str, typer.Option(help="with --plans: ask questions of these kinds only, comma-separated")] = "",
    domains: Annotated[
        str, typer.Option(help="drawn domains to ask about, comma-separated; orchard is never trained on")
    ] = "",
    bundle: BundleOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure a model's accuracy by kind of question, beside the majority answer and a blank picture.

    With --plans, what is measured also goes into the model's bundle.
    """
    from splitvlm.evaluation.command import Selection, evaluate_model, evaluate_plans

    only = Selection(_listed(cuts), _listed(levels), _listed(kinds))
    if not plans and (bundle or only != Selection([], [], [])):
        raise UsageError("--cuts, --levels, --kinds and --bundle belong to --plans.", advice="Add --plans.")
    asked = _domains(domains)
    if asked and (plans or data):
        raise UsageError("--domains asks about drawn scenes without plans.", advice="Leave out --plans and --data.")
    result = (
        evaluate_plans(model, data, questions, seed, only, bundle)
        if plans
        else evaluate_model(model, data, questions, seed, asked)
    )
    write_json(json_file, result)


@models_app.command()
def leak(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, or scenes")] = "scenes",
    cuts: Annotated[str, typer.Option(help="cuts to attack, comma-separated; by default all")] = "",
    levels: Annotated[
        str, typer.Option(help="codec levels to attack, comma-separated; by default a few of each kind")
    ] = "",
    training: Annotated[int, typer.Option(min=16, help="number of pictures that each attacker learns from")] = 400,
    questions: Annotated[
        int, typer.Option(min=1, help="number of held-out questions that reconstructions are judged by")
    ] = 400,
    seed: SeedOption = 0,
    plot: Annotated[
        Path, typer.Option(callback=writable_file, help="PNG file for pictures and their reconstructions")
    ] = Path("out/leak.png"),
    variant: Annotated[
        Path | None, typer.Option(help="folder of a variant, whose plans are measured instead of the model's own")
    ] = None,
    bundle: BundleOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure how much of a picture an attacker reconstructs from what crosses each cut.

    The figures go into the model's bundle.
    """
    from splitvlm.evaluation.leak.command import leak as measure

    leaks = measure(model, _listed(cuts), _listed(levels), training, questions, seed, plot, bundle, variant)
    write_json(json_file, leaks)


@models_app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, or scenes")] = "scenes",
    images: Annotated[Path | None, typer.Option(help="folder of pictures like those that will be asked about")] = None,
    number: Annotated[int, typer.Option(min=1, max=100_000, help="most pictures to learn from")] = 300,
    steps: Annotated[
        int,
        typer.Option(min=1, max=100_000, help="number of training steps; twice as many save some percent of the bytes"),
    ] = 3000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="number of processes; by default one for each core")
    ] = None,
    bundle: BundleOption = None,
) -> None:
    """Learn the codec's calibrated levels for a model from pictures without labels.

    They go into the model's bundle.
    """
    from splitvlm.calibration.calibrate import calibrate as learn

    path = learn(model, images, number, workers or os.cpu_count() or 1, steps, bundle)
    print(f"Calibration written to {path}. Give every node the same bundle: {path.parent}.")


@models_app.command()
def profile(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, scenes, or shape:ID")] = "scenes",
    out: Annotated[
        Path | None,
        typer.Option(callback=writable_file, help="JSON file to write, for `splitvlm plan` and `splitvlm simulate`"),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=1, max=10_000, help="number of pictures whose payload sizes are sampled")
    ] = 24,
    device: Annotated[str, typer.Option(help="where the model runs: cpu or cuda")] = "cpu",
    dtype: Annotated[str, typer.Option(help="precision of the model: auto, float32 or bfloat16")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="number of torch threads")] = None,
    variants: Annotated[
        list[Path] | None,
        typer.Option("--variant", help="folder of another form of the device's part; may be repeated"),
    ] = None,
    bundle: BundleOption = None,
) -> None:
    """Measure both sides of a model on this machine: seconds of stages and codec levels, payload sizes."""
    from splitvlm import settings
    from splitvlm.tools.profile import profile as measure

    raw: dict[str, object] = {"name": model, "device": device, "dtype": dtype, "threads": threads, "bundle": bundle}
    measure(settings.parse(raw, settings.ModelChoice, source="splitvlm profile"), pictures, out, variants or ())


def _domains(text: str) -> list[str]:
    """Returns the drawn domains that an option names. Raises UsageError."""
    from splitvlm.scenes import DOMAINS

    named = _listed(text)
    if unknown := [name for name in named if name not in DOMAINS]:
        raise UsageError(f"'{unknown[0]}' is no drawn domain.", advice=f"Domains are {', '.join(DOMAINS)}.")
    return named


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
