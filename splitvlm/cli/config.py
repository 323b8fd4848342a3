"""`splitvlm config ...`: configuration files, checked and described."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from splitvlm.errors import UsageError

config_app = typer.Typer(help="Check configuration files, print their schema.", no_args_is_help=True)


@config_app.command("check")
def config_check(
    kind: Annotated[str, typer.Argument(help="cloud, edge, orchestrator or simulate")], file: Path
) -> None:
    """Check a configuration file; exits 2 on a mistake."""
    from splitvlm import settings

    settings.load(file, _settings_of(kind))
    print(f"{file} is a valid {kind} configuration.")


@config_app.command("schema")
def config_schema(kind: Annotated[str, typer.Argument(help="cloud, edge, orchestrator or simulate")]) -> None:
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
