"""`splitvlm ask`: what a running node is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

asking_app = typer.Typer()


@asking_app.command()
def ask(
    picture: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP")],
    question: Annotated[str, typer.Argument(help="what to ask about it")],
    edge_address: Annotated[str, typer.Option("--edge", help="host:port of the edge node")] = "127.0.0.1:7443",
    keys: Annotated[Path, typer.Option("--keys", help="folder of this application's keys")] = Path("keys/app"),
    plan: Annotated[str, typer.Option(help="use this plan, e.g. tokens/int4; else the node chooses")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="0 is the node's default")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say the plan, the bytes and the times")] = False,
    plaintext: Annotated[bool, typer.Option(help="no TLS; loopback only")] = False,
) -> None:
    """Ask the edge node one question about a picture; the answer streams to standard output."""
    from splitvlm.ask import ask_once
    from splitvlm.crypto.identity import load_identity

    identity = None if plaintext else load_identity(keys)
    asyncio.run(ask_once(picture, question, edge_address, identity, plan, max_new_tokens, verbose=verbose))
