"""`splitvlm cloud`, `edge` and `orchestrator`: the processes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from splitvlm.node.allocator import give_memory_back

nodes_app = typer.Typer()

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="configuration file, in YAML")]


@nodes_app.command()
def cloud(config: ConfigOption) -> None:
    """Run a cloud node, which computes the upper part of the model."""
    give_memory_back()
    from cloud_node.node import run
    from cloud_node.settings import CloudSettings
    from splitvlm import settings
    from splitvlm.node import logs

    chosen = settings.load(config, CloudSettings)
    logs.set_up(chosen.logging)
    _serve(run(chosen, config))


@nodes_app.command()
def edge(config: ConfigOption) -> None:
    """Run an edge node, the daemon of a device."""
    give_memory_back()
    from edge_node.node import run
    from edge_node.settings import EdgeSettings
    from splitvlm import settings
    from splitvlm.node import logs

    chosen = settings.load(config, EdgeSettings)
    logs.set_up(chosen.logging)
    _serve(run(chosen, config))


@nodes_app.command()
def orchestrator(config: ConfigOption) -> None:
    """Run the orchestrator, which knows the nodes that are alive and makes the plan tables."""
    give_memory_back()
    from orchestrator.node import run
    from orchestrator.settings import OrchestratorSettings
    from splitvlm import settings
    from splitvlm.node import logs

    chosen = settings.load(config, OrchestratorSettings)
    logs.set_up(chosen.logging)
    _serve(run(chosen, config))


def _serve(run: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(run)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
