"""`splitvlm variant ...`: forms of the device's part are made, listed, measured and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import SeedOption, writable_folder
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
