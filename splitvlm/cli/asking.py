"""`splitvlm ask`, `status` and `nodes`: what running nodes are asked. Loads no torch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import KeysOption, PlaintextOption, TemperatureOption, TopPOption
from splitvlm.cli.output import JsonOption, write_json

asking_app = typer.Typer()

EdgeOption = Annotated[str, typer.Option("--edge", help="host:port of the edge node")]
APP_KEYS = Path("keys/app")

TopKOption = Annotated[int, typer.Option(help="draw among so many of the most likely tokens; 0: among all")]
RepetitionPenaltyOption = Annotated[
    float, typer.Option(help="above 1: tokens that are there already become less likely")
]
DrawSeedOption = Annotated[
    int | None,
    typer.Option(help="of the draws: the same seed gives the same answer; by default the node draws one"),
]


@asking_app.command()
def ask(
    picture: Annotated[
        Path, typer.Argument(help="JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF (docs/reference/pictures.md)")
    ],
    question: Annotated[str, typer.Argument(help="question about the picture")],
    edge_address: EdgeOption = "127.0.0.1:7443",
    keys: KeysOption = APP_KEYS,
    plan: Annotated[str, typer.Option(help="plan to use, e.g. tokens/int4; by default the node chooses")] = "",
    max_new_tokens: Annotated[
        int, typer.Option(min=0, max=4096, help="most tokens of the answer; 0 is the node's default")
    ] = 0,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    repetition_penalty: RepetitionPenaltyOption = 1.0,
    seed: DrawSeedOption = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="also print the plan, who answered, what failed, the bytes and the times"),
    ] = False,
    plaintext: PlaintextOption = False,
    json_file: JsonOption = None,
) -> None:
    """Ask the edge node one question about a picture; the answer streams to standard output."""
    from splitvlm.cli.ask_command import ask_once
    from splitvlm.crypto.identity import load_identity

    identity = None if plaintext else load_identity(keys)
    asked = ask_once(
        picture,
        question,
        edge_address,
        identity,
        plan,
        max_new_tokens,
        verbose=verbose,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    write_json(json_file, asyncio.run(asked))


@asking_app.command()
def status(
    edge_address: EdgeOption = "127.0.0.1:7443",
    keys: KeysOption = APP_KEYS,
    plaintext: PlaintextOption = False,
    json_file: JsonOption = None,
) -> None:
    """Show an edge node's model, cloud node, link estimate and plan table."""
    from splitvlm.cli.ask_command import show_status
    from splitvlm.crypto.identity import load_identity

    identity = None if plaintext else load_identity(keys)
    write_json(json_file, asyncio.run(show_status(edge_address, identity)))


@asking_app.command()
def nodes(
    orchestrator_address: Annotated[
        str, typer.Option("--orchestrator", help="host:port of the orchestrator")
    ] = "127.0.0.1:7441",
    keys: KeysOption = APP_KEYS,
    plaintext: PlaintextOption = False,
    json_file: JsonOption = None,
) -> None:
    """List the nodes that the orchestrator knows, and which of them are alive."""
    from splitvlm.cli.ask_command import show_nodes
    from splitvlm.crypto.identity import load_identity

    identity = None if plaintext else load_identity(keys)
    write_json(json_file, asyncio.run(show_nodes(orchestrator_address, identity)))
