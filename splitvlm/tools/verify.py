"""`splitvlm verify`: law 1, checked for a model. Split answers through a real cloud process against transformers' generate.

The reference runs first, in this process, with the whole model; then it goes, and this process becomes the device: it loads
the lower part, and each request crosses mutual TLS to a cloud node's process, sealed, with the lossless codec.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from edge_node.answering.question import PlannedQuestion
from edge_node.answering.run import AnswerRun, CloudNodes
from edge_node.cloud.link import CloudLink
from edge_node.engine import DeviceEngine
from edge_node.node import compatibility_of
from edge_node.privacy import EVERYTHING_MAY_LEAVE
from splitvlm.bundle import Bundle, open_bundle
from splitvlm.crypto.identity import Role
from splitvlm.domain import DEVICE, GREEDY, Cut, Plan, Sampling
from splitvlm.model.loading import load_device
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from splitvlm.scenes.samples import samples
from splitvlm.tools.launcher import Launcher

_console = Console(stderr=True)


async def verify_model(model: str, cuts: Sequence[str], questions: int, tokens: int) -> dict[str, object]:
    """Prints a table of cuts; returns {"model", "exact", "cuts": {cut: bool}, "questions", "tokens"}."""
    bundle = open_bundle(model)
    spec = bundle.spec
    wanted = [Cut.parse(text) for text in cuts] or list(spec.cuts())
    for cut in wanted:
        spec.check(cut)
    asked = [Asked(Prompt.about(*sample)) for sample in samples(questions, model)]
    _console.print(f"Unsplit answers of {model}: {questions} questions, {tokens} tokens ...")
    expected = reference_tokens(model, [each.prompt for each in asked], tokens)
    gc.collect()
    results = await split_answers(model, bundle, wanted, asked, tokens)
    exact = {cut: answers == expected for cut, answers in results.items()}
    _print(model, exact, results, expected)
    return {
        "model": model,
        "exact": all(exact.values()),
        "cuts": {str(cut): same for cut, same in exact.items()},
        "questions": questions,
        "tokens": tokens,
    }


class Asked(NamedTuple):
    """Is one question to a model."""

    prompt: Prompt
    sampling: Sampling = GREEDY


async def split_answers(
    model: str, bundle: Bundle, cuts: Sequence[Cut], asked: Sequence[Asked], tokens: int
) -> dict[Cut, list[list[int]]]:
    """Returns the token ids of the answers at each cut, with a cloud node's process behind mutual TLS."""
    with tempfile.TemporaryDirectory(prefix="splitvlm-verify-") as folder:
        async with Launcher(Path(folder)) as launcher:
            link, codec = None, bundle.codec
            remote = [str(cut) for cut in cuts if cut != DEVICE]
            if remote:
                _console.print("Starting a cloud node ...")
                cloud = await launcher.start("cloud", {"model": {"name": model}, "cuts": remote})
                identity = launcher.identity("verifier", Role.EDGE)
                link = CloudLink(cloud.address, compatibility_of(bundle.spec, codec, "float32"), identity, remote)
            engine = DeviceEngine(load_device(model, cuts), codec)
            try:
                return {cut: [await _answer(engine, link, cut, each, tokens) for each in asked] for cut in cuts}
            finally:
                engine.close()
                if link is not None:
                    await link.close()


async def _answer(engine: DeviceEngine, link: CloudLink | None, cut: Cut, asked: Asked, tokens: int) -> list[int]:
    level = "none" if cut == DEVICE else "lossless"
    planned = PlannedQuestion(Plan(cut, level), asked.prompt, tokens, sampling=asked.sampling)
    clouds = CloudNodes((link,) if link is not None else ())
    return [token_id async for token_id in AnswerRun(engine, EVERYTHING_MAY_LEAVE, planned, clouds)]


def _print(model: str, exact: dict[Cut, bool], results: dict[Cut, list[list[int]]], expected: list[list[int]]) -> None:
    table = Table("cut", "tokens as unsplit", "exact", title=f"{model}: split against unsplit, lossless, over TLS")
    total = sum(map(len, expected))
    for cut, same in exact.items():
        equal = sum(
            a == b for got, want in zip(results[cut], expected, strict=True) for a, b in zip(got, want, strict=False)
        )
        table.add_row(str(cut), f"{equal} of {total}", "yes" if same else "NO")
    Console().print(table)
