"""`splitvlm tune`: a model learns a new domain by a LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import SeedOption, writable_folder
from splitvlm.cli.output import JsonOption, write_json

tuning_app = typer.Typer()


@tuning_app.command()
def tune(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, or scenes")] = "scenes",
    out: Annotated[Path, typer.Option("--out", callback=writable_folder, help="folder of the adapter")] = ...,  # type: ignore[assignment]
    data: Annotated[
        Path | None,
        typer.Option(help="JSON lines with image, question and answer; by default drawn orchards, for scenes"),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="JSON lines of what the model knows and must not forget; by default drawn scenes"),
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="number of pictures to learn from")] = 400,
    rank: Annotated[int, typer.Option(min=1, max=256, help="rank of the adapter's matrices")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="number of training steps")] = 600,
    rate: Annotated[float, typer.Option(min=0, help="peak learning rate")] = 2e-3,
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="where to train: cpu, or a GPU such as cuda:0")] = "cpu",
    json_file: JsonOption = None,
) -> None:
    """Teach a model a new domain by a LoRA adapter, which is named beside it from then on: MODEL+FOLDER.

    Ctrl-C loses nothing: the same command goes on.
    """
    from splitvlm.variants.tune import Tuning, tune

    made = tune(Tuning(model, out, data, keep, pictures, rank, steps, rate, seed, device))
    share = 100 * float(str(made["share"]))
    print(f"{made['trained_parameters']:,} parameters ({share:.2f} %) were trained; loss {made['loss']:.3f}.")
    print(f"The model is {made['model']}, wherever a model is named.")
    write_json(json_file, made)
