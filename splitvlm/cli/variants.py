"""`splitvlm variant ...`: forms of the device's part are made, listed, measured and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import SeedOption, finite, writable_folder
from splitvlm.cli.output import JsonOption, write_json

variant_app = typer.Typer(help="Make, list, check and measure forms of the device's part.", no_args_is_help=True)

KindArgument = Annotated[str, typer.Argument(help="way to make it; `splitvlm variant kinds` lists them")]
ModelArgument = Annotated[str, typer.Argument(help="Hugging Face id or folder, scenes, or shape:ID")]
FolderArgument = Annotated[Path, typer.Argument(help="folder of a variant")]


@variant_app.command("make")
def variant_make(
    kind: KindArgument,
    model: ModelArgument = "scenes",
    out: Annotated[
        Path,
        typer.Option("--out", callback=writable_folder, help="folder of the variant; one that is there is replaced"),
    ] = ...,  # type: ignore[assignment]
    name: Annotated[str, typer.Option(help="name in plans, as in tokens/klt3@NAME; by default the kind's")] = "",
    seed: SeedOption = 0,
    data: Annotated[
        Path | None, typer.Option(help="JSON lines with image, question, answer and kind; by default drawn scenes")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="number of pictures or questions that it is made with")] = 300,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="an option of the kind, KEY=VALUE; may be repeated")
    ] = None,
) -> None:
    """Make a variant of a model: its device's part in another form, in a folder of its own."""
    from splitvlm.tools.variant_view import describe
    from splitvlm.variants.make import make_variant

    variant = make_variant(kind, model, out, name=name, seed=seed, data=data, samples=samples, options=options or ())
    print(describe(variant))


@variant_app.command("kinds")
def variant_kinds() -> None:
    """List the kinds of variants, with their options."""
    from splitvlm.tools.variant_view import kinds_table

    kinds_table()


@variant_app.command("list")
def variant_list(
    folders: Annotated[list[Path], typer.Argument(help="folders of variants, or folders that hold some")],
    json_file: JsonOption = None,
) -> None:
    """List variants with their sizes and what they lose; each is compared with its hashes and its parent."""
    from splitvlm.tools.variant_view import list_variants

    write_json(json_file, list_variants(folders))


@variant_app.command("check")
def variant_check(
    folder: FolderArgument,
    pictures: Annotated[int, typer.Option(min=1, max=10_000, help="number of drawn pictures")] = 16,
    most_error: Annotated[
        float,
        typer.Option(callback=finite, min=0, help="largest root mean square error of visual tokens, relative to them"),
    ] = 0.1,
    json_file: JsonOption = None,
) -> None:
    """Compare a variant with its parent: visual tokens and answers. The exit code is 1 where the error is larger."""
    from splitvlm.tools.variant_view import show_agreement
    from splitvlm.variants.check import check_variant

    agreement = check_variant(folder, pictures, most_error)
    print(show_agreement(agreement))
    write_json(json_file, agreement)
    if not agreement["within"]:
        raise typer.Exit(1)


@variant_app.command("measure")
def variant_measure(
    folder: FolderArgument,
    data: Annotated[Path | None, typer.Option(help="file of JSON lines with image, question, answer and kind")] = None,
    questions: Annotated[int, typer.Option(min=1, help="number of held-out questions, without --data")] = 5_000,
    seed: SeedOption = 0,
    levels: Annotated[str, typer.Option(help="measure these codec levels only, beside lossless, comma-separated")] = "",
    json_file: JsonOption = None,
) -> None:
    """Measure what a variant's plans lose against the undivided model. The figures go into its folder."""
    from splitvlm.variants.measure import measure_variant

    chosen = [level.strip() for level in levels.split(",") if level.strip()]
    write_json(json_file, measure_variant(folder, data, questions, seed, chosen))
