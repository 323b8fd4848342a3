"""`splitvlm demo`, `draw` and `link`: the whole system on one machine, its pictures, its link."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import finite, writable_file, writable_folder
from splitvlm.cli.output import JsonOption, write_json
from splitvlm.errors import UsageError

tools_app = typer.Typer()


@tools_app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="seed of the pictures and questions")] = 7,
    questions: Annotated[int, typer.Option(min=1, max=10_000, help="number of questions")] = 60,
    trace: Annotated[
        str, typer.Option(help="link to emulate: a trace file, synthetic:NAME or constant:RATE")
    ] = "synthetic:far",
    slowdown: Annotated[
        float,
        typer.Option(callback=finite, min=1, help="factor by which the emulated device is slower than this machine"),
    ] = 5.0,
    every: Annotated[float, typer.Option(callback=finite, min=0, help="seconds from one question to the next")] = 1.0,
    out: Annotated[Path, typer.Option(callback=writable_folder, help="folder for the plot")] = Path("out"),
    variants: Annotated[
        list[Path] | None,
        typer.Option("--variant", help="folder of a variant of scenes that the device may use; may be repeated"),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="ask nothing: serve the OpenAI API over HTTP until Ctrl-C")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="with --serve: port of the API; 0 takes a free one")] = 0,
    model: Annotated[str, typer.Option(help="with --serve: model to serve")] = "scenes",
    json_file: JsonOption = None,
) -> None:
    """Run the whole system on this machine: three processes, an emulated link, questions about drawn pictures."""
    if serve:
        from splitvlm.tools.demo_serve import serve_demo

        asyncio.run(serve_demo(model, port, trace, slowdown))
        return
    from splitvlm.tools.demo import run_demo

    write_json(json_file, asyncio.run(run_demo(seed, questions, trace, slowdown, every, out, variants or ())))


@tools_app.command()
def draw(
    domain: Annotated[str, typer.Argument(help="kind of scene: microscopy, aerial, road or orchard")],
    file: Annotated[Path, typer.Argument(callback=writable_file, help="picture file to write: .png, .jpg or .webp")],
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="seed of the picture: the same seed draws the same picture")
    ] = 0,
) -> None:
    """Draw a picture of the kind that the embedded model knows, and print questions about it with their answers."""
    from splitvlm import scenes

    if domain not in scenes.DOMAINS:
        raise UsageError(f"'{domain}' is not a domain.", advice=f"Domains are {', '.join(scenes.DOMAINS)}.")
    scene = scenes.draw(domain, seed)
    try:
        scene.image.save(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot write {file}: {error}.", advice="Name a .png, .jpg or .webp file.") from error
    for question in scenes.ask(scene, seed):
        print(f"{question.text} {question.answer}")


@tools_app.command()
def link(
    trace: Annotated[str, typer.Option(help="uplink to emulate: a trace file, synthetic:NAME or constant:RATE")],
    upstream: Annotated[str, typer.Option(help="host:port to which connections are forwarded")],
    listen: Annotated[str, typer.Option(help="host:port to listen on; port 0 lets the system choose")] = "127.0.0.1:0",
    down: Annotated[
        str | None, typer.Option(help="downlink to emulate; by default the trace file's own, or 100 Mbit/s")
    ] = None,
    delay_ms: Annotated[
        float | None,
        typer.Option(
            callback=finite, min=0, help="delay one way, in milliseconds; by default the trace file's own, or 0"
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(callback=writable_file, help="CSV file to which deliveries are written at the end")
    ] = None,
) -> None:
    """Emulate a link by a TCP proxy that follows a recorded or synthetic trace."""
    from splitvlm.host_port import host_and_port
    from splitvlm.link.command import run

    delay_s = None if delay_ms is None else delay_ms / 1e3
    asyncio.run(run(host_and_port(listen), host_and_port(upstream), trace, delay_s=delay_s, down=down, log_file=log))
