"""`splitvlm bundle ...`: what was learned about a model, and where it lies."""

from __future__ import annotations

from typing import Annotated

import typer

from splitvlm.cli.options import BundleOption
from splitvlm.cli.output import JsonOption, write_json

bundle_app = typer.Typer(help="Show what was learned about a model.", no_args_is_help=True)


@bundle_app.command("show")
def bundle_show(
    model: Annotated[str, typer.Argument(help="Hugging Face id or folder, scenes, or shape:ID")] = "scenes",
    bundle: BundleOption = None,
    json_file: JsonOption = None,
) -> None:
    """Print a model's bundle: its folder, which files count, and what is in them."""
    from splitvlm.tools.bundle_view import show

    write_json(json_file, show(model, bundle))
