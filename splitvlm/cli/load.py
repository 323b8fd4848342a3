"""`splitvlm load`: many simulated devices against one cloud node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from splitvlm.cli.options import PlaintextOption, SeedOption, TemperatureOption, TopPOption, finite, writable_file
from splitvlm.cli.output import JsonOption, write_json
from splitvlm.errors import UsageError

load_app = typer.Typer()

ModelOption = Annotated[str, typer.Option(help="Hugging Face id or folder, scenes, or shape:ID")]
PlanOption = Annotated[str, typer.Option(help="what the devices send: image, vision:k, tokens or lm:k, and a level")]
DevicesOption = Annotated[int, typer.Option(min=1, max=1_000, help="number of simulated devices")]
RequestsOption = Annotated[int, typer.Option(min=1, max=1_000_000, help="number of requests of all devices together")]
RateOption = Annotated[
    float | None,
    typer.Option(callback=finite, min=1e-3, help="requests a second, as a Poisson process; by default a closed loop"),
]
AnswerTokensOption = Annotated[
    str, typer.Option(help="most tokens of each answer, such as 64, or a range to draw from, such as 32:128")
]
GoodputOption = Annotated[str, typer.Option(help="objective in milliseconds, such as ttft:500,tpot:100,e2e:3000")]
CloudOption = Annotated[str, typer.Option(help="host:port of a running node; by default one is started here")]
AuthorityOption = Annotated[
    Path, typer.Option(help="with --cloud: folder of the authority, in which certificates load-N are issued")
]
DtypeOption = Annotated[str, typer.Option(help="float32 or bfloat16, as the node's model.dtype")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1_024, help="number of torch threads, here and in the started node")
]
PlotOption = Annotated[
    Path | None, typer.Option(callback=writable_file, help="file for a plot of the run: .png, .svg or .pdf")
]


@load_app.command()
def load(
    model: ModelOption = "scenes",
    plan: PlanOption = "tokens/lossless",
    devices: DevicesOption = 8,
    requests: RequestsOption = 100,
    rate: RateOption = None,
    answer_tokens: AnswerTokensOption = "64",
    goodput: GoodputOption = "",
    cloud: CloudOption = "",
    keys: AuthorityOption = Path("keys"),
    plaintext: PlaintextOption = False,
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
    temperature: TemperatureOption = 0.0,
    top_p: TopPOption = 1.0,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    json_file: JsonOption = None,
) -> None:
    """Load a cloud node with simulated devices that send recorded payloads, and print its latencies and throughput.

    Terms and definitions are those of `vllm bench serve`.
    """
    from splitvlm.domain import Plan, Sampling
    from splitvlm.tools.load.objective import ServiceObjective
    from splitvlm.tools.load.run import LoadSettings, run_load
    from splitvlm.tools.load.schedule import AnswerLengths

    settings = LoadSettings(
        model=model,
        plan=Plan.parse(plan),
        devices=devices,
        requests=requests,
        lengths=AnswerLengths.parse(answer_tokens),
        objective=ServiceObjective.parse(goodput),
        requests_per_s=rate,
        sampling=Sampling(temperature, top_p),
        seed=seed,
        threads=threads,
        dtype=_dtype(dtype),
        cloud=cloud,
        authority=keys,
        plaintext=plaintext,
    )
    write_json(json_file, asyncio.run(run_load(settings, plot)))


def _dtype(text: str) -> str:
    if text not in ("float32", "bfloat16"):
        raise UsageError(f"'{text[:40]}' is not a dtype.", advice="Choose float32 or bfloat16.")
    return text
