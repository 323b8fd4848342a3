"""`splitvlm privacy ...`: what an edge node's configuration lets out of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.output import JsonOption, write_json

privacy_app = typer.Typer(help="Print what may leave a device.", no_args_is_help=True)


@privacy_app.command("check")
def privacy_check(
    config: Annotated[Path, typer.Argument(help="configuration file of an edge node")], json_file: JsonOption = None
) -> None:
    """Print how much of a picture may leave this device at most.

    The exit code is 1 where nothing limits it, 2 where the file is invalid. The first time on a machine the node's part of
    the model is measured, as at the node's start.
    """
    from rich.console import Console

    from edge_node.privacy_report import may_leave, show
    from edge_node.settings import EdgeSettings
    from splitvlm import settings

    report = may_leave(settings.load(config, EdgeSettings))
    show(report, Console())
    write_json(json_file, report.to_json())
    if report.mode is None:
        raise typer.Exit(1)
