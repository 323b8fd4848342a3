"""`splitvlm verify --families`: law 1 for each family, on a tiny model with random weights, through real processes.

Greedy answers are compared with transformers' own generate, drawn ones with those of the model undivided on the device.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from splitvlm.bundle import open_bundle
from splitvlm.domain import DEVICE, Conversation, Sampling
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from splitvlm.model.tiny_models import FAMILIES, save
from splitvlm.scenes import draw
from splitvlm.tools.verify import Asked, split_answers

NUM_TOKENS = 8
DRAWN = Sampling(temperature=1.5, seed=7)


def prompts() -> dict[str, Prompt]:
    """Returns what each family is asked, of images one of which is wide and one tiny."""
    wide = draw("road", 3).image.resize((200, 40), Image.Resampling.BICUBIC)
    tiny = draw("microscopy", 5).image.resize((24, 24), Image.Resampling.BICUBIC)
    first = Conversation.about("How many cars are there?")
    return {
        "one image": Prompt(first, (wide,)),
        "two images": Prompt(Conversation.about("Which is larger?", 2), (wide, tiny)),
        "two turns": Prompt(first.then("Two.", "And here?", 1), (wide, tiny)),
    }


async def verify_families() -> dict[str, object]:
    """Prints a table of families; returns {"exact", "families": {name: {"cuts", prompt's name: cuts that differ}}}."""
    results = {}
    for name in FAMILIES:
        Console(stderr=True).print(f"{name} ...")
        results[name] = await _verify(name)
    _print(results)
    exact = not any(differing for result in results.values() for differing in result["differing"].values())
    return {"exact": exact, "families": results}


async def _verify(name: str) -> dict[str, dict[str, list[str]]]:
    asked = prompts()
    with tempfile.TemporaryDirectory(prefix="splitvlm-verify-") as folder:
        model = str(save(name, Path(folder)))
        greedy = reference_tokens(model, list(asked.values()), NUM_TOKENS)
        bundle = open_bundle(model)
        questions = [Asked(prompt, *more) for prompt in asked.values() for more in ((), (DRAWN,))]
        answers = await split_answers(model, bundle, bundle.spec.cuts(), questions, NUM_TOKENS)
    drawn = answers[DEVICE][1::2]
    return {
        "cuts": {"all": [str(cut) for cut in answers]},
        "differing": {
            f"{prompt}, {how}": [str(cut) for cut, ids in answers.items() if ids[2 * index + offset] != wanted[index]]
            for index, prompt in enumerate(asked)
            for offset, (how, wanted) in enumerate((("greedy", greedy), ("drawn", drawn)))
        },
    }


def _print(results: dict[str, dict[str, dict[str, list[str]]]]) -> None:
    table = Table("family", "cuts", *prompts(), title="split against unsplit, lossless, greedy and drawn, over TLS")
    for name, result in results.items():
        cells = []
        for prompt in prompts():
            differing = sorted({cut for how in ("greedy", "drawn") for cut in result["differing"][f"{prompt}, {how}"]})
            cells.append(f"NOT at {', '.join(differing)}" if differing else "exact")
        table.add_row(name, str(len(result["cuts"]["all"])), *cells)
    Console().print(table)
