"""`splitvlm config ...`: configuration files, checked and described."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from splitvlm.errors import UsageError

config_app = typer.Typer(help="Check configuration files and print their schema.", no_args_is_help=True)


@config_app.command("check")
def config_check(
    kind: Annotated[str, typer.Argument(help="kind of file: cloud, edge, orchestrator or simulate")],
    file: Annotated[Path, typer.Argument(help="configuration file to check")],
) -> None:
    """Check a configuration file. The exit code is 2 where it is invalid.

    Cuts, levels and plans of an edge or cloud node are compared with its model, where that is on this machine.
    """
    from splitvlm import settings

    chosen = settings.load(file, _settings_of(kind))
    against = _check_node(kind, chosen) if kind in ("cloud", "edge") else ""
    if kind == "orchestrator" and chosen.accuracy:
        against = "; levels in `accuracy` were not checked, for an orchestrator has no model"
    print(f"{file} is a valid {kind} configuration{against}.")


def _check_node(kind: str, chosen: Any) -> str:
    """Returns what the settings were checked against, in words. Raises ConfigError."""
    if kind == "cloud":
        from cloud_node.control import check_advertised

        check_advertised(chosen)
    os.environ["HF_HUB_OFFLINE"] = "1"  # to check is not to fetch gigabytes
    try:
        from splitvlm.model.loading import read_spec

        read_spec(chosen.model.name)
    except (UsageError, ModuleNotFoundError) as error:
        return f"; its cuts, levels and plans were not checked, for its model cannot be read here: {error}".rstrip(".")
    if kind == "cloud":
        from cloud_node.worker.loading import check as check_cloud

        check_cloud(chosen)
    else:
        from edge_node.node import check as check_edge

        check_edge(chosen)
    return f" for the model {chosen.model.name}"


@config_app.command("schema")
def config_schema(
    kind: Annotated[str, typer.Argument(help="kind of file: cloud, edge, orchestrator or simulate")],
) -> None:
    """Print the JSON schema of a configuration, for editors."""
    from splitvlm import settings

    print(settings.schema(_settings_of(kind)))


def _settings_of(kind: str) -> Any:
    if kind == "cloud":
        from cloud_node.settings import CloudSettings

        return CloudSettings
    if kind == "edge":
        from edge_node.settings import EdgeSettings

        return EdgeSettings
    if kind == "orchestrator":
        from orchestrator.settings import OrchestratorSettings

        return OrchestratorSettings
    if kind == "simulate":
        from orchestrator.simulator.scenario import Scenario

        return Scenario
    raise UsageError(
        f"'{kind}' is not a kind of configuration.", advice="Kinds are cloud, edge, orchestrator and simulate."
    )
