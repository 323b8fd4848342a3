"""`splitvlm ask`, `chat`, `status` and `nodes`: what running nodes are asked. Loads no torch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitvlm.cli.options import KeysOption, PlaintextOption, TemperatureOption, TopPOption
from splitvlm.cli.output import JsonOption, write_json

if TYPE_CHECKING:
    from splitvlm.client import Options

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
SystemOption = Annotated[str, typer.Option(help="system prompt: what the model is told before the conversation")]
PlanOption = Annotated[str, typer.Option(help="plan to use, e.g. tokens/int4; by default the node chooses")]
TokensOption = Annotated[int, typer.Option(min=0, max=4096, help="most tokens of the answer; 0 is the node's default")]


WordsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[IMAGE]... QUESTION",
        help="images (JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF; docs/reference/pictures.md), and the question about them",
    ),
]
StopOption = Annotated[
    list[str] | None, typer.Option("--stop", help="text before which the answer ends; may be repeated")
]
SchemaOption = Annotated[
    Path | None, typer.Option(help="file with a JSON schema: the answer is JSON that is valid by it")
]
ChoicesOption = Annotated[str, typer.Option(help="possible answers, e.g. yes,no: it is one of them")]


@asking_app.command()
def ask(
    words: WordsArgument,
    edge_address: EdgeOption = "127.0.0.1:7443",
    keys: KeysOption = APP_KEYS,
    system: SystemOption = "",
    plan: PlanOption = "",
    max_new_tokens: TokensOption = 0,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 0,
    repetition_penalty: RepetitionPenaltyOption = 1.0,
    seed: DrawSeedOption = None,
    stop: StopOption = None,
    json_schema: SchemaOption = None,
    choices: ChoicesOption = "",
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="also print the plan, who answered, what failed, the bytes and the times"),
    ] = False,
    plaintext: PlaintextOption = False,
    json_file: JsonOption = None,
) -> None:
    """Ask the edge node one question, about images or without; the answer streams to standard output."""
    from splitvlm.cli.ask_command import ask_once, constraint_of, conversation_of
    from splitvlm.crypto.identity import load_identity

    identity = None if plaintext else load_identity(keys)
    conversation, images = conversation_of(words, system)
    asked = ask_once(
        conversation,
        images,
        edge_address,
        identity,
        verbose=verbose,
        plan=plan,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=stop or (),
        constraint=constraint_of(json_schema, choices),
    )
    write_json(json_file, asyncio.run(asked))


@asking_app.command()
def chat(
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="images that the first question is about")
    ] = None,
    edge_address: EdgeOption = "127.0.0.1:7443",
    keys: KeysOption = APP_KEYS,
    system: SystemOption = "",
    plan: PlanOption = "",
    max_new_tokens: TokensOption = 0,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: DrawSeedOption = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="also print the plan, the bytes and the times")
    ] = False,
    plaintext: PlaintextOption = False,
) -> None:
    """Talk with the edge node's model, a line a question. `/image PATH` shows it an image, `/new` begins anew, `/quit` ends."""
    from splitvlm.cli.chat_command import Chat
    from splitvlm.client import connect

    options: Options = {"plan": plan, "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    options["seed"] = seed
    with connect(edge_address, keys=keys, plaintext=plaintext) as vlm:
        Chat(vlm, system, options, verbose=verbose).run(images or [])


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
