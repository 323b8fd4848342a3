"""What variants of a vision tower lose and save: answers of the whole model with each tower in its place, and times in turns.

    lost points = 100 x (share of right answers of the undivided model - share with the variant's tower)
    time ratio  = seconds of the variant's tower and connector / seconds of the model's own: medians, in turns, in one process

Answers are greedy, through transformers' `generate`, to held-out questions about drawn scenes; times are of one picture, as a
node runs it. With `--level` the visual tokens of every tower are coded at that level. `python benchmarks/variant_towers.py
DIR... [--questions 5000]`. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from splitvlm.domain import TOKENS
from splitvlm.evaluation.answers import Outcome, answers, drawn
from splitvlm.model.loading import load_device, load_tower, load_whole
from splitvlm.model.parts import DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.model.tower import TorchTower
from splitvlm.node.progress import show_progress
from splitvlm.scenes.samples import samples
from splitvlm.variants.coded_tokens import CodedConnector
from splitvlm.variants.measure import open_variant

WARM_UP = 5  # pictures
LEAST_OF_A_KIND = 40  # questions: fewer tell little about a kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of variants of one model, with weights")
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=60, help="pictures that are timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--level", default="", help="codec level of the visual tokens; by default they are not coded")
    options = parser.parse_args()
    opened = [open_variant(folder) for folder in options.folders]
    variants, bundle = [variant for variant, _ in opened], opened[0][1]
    model = variants[0].manifest.parent.model
    part = load_device(model, [TOKENS], threads=options.threads)
    towers = {variant.name: load_tower(variant.folder, part) for variant in variants}
    ratios = _time_ratios(part, towers, model, options.pictures)
    examples = list(drawn(options.questions, options.seed))
    coding = (lambda own: CodedConnector(own, bundle.codec, options.level)) if options.level else (lambda own: own)
    exact = _outcomes(model, None, examples, "full", lambda own: own)
    own = _outcomes(model, None, examples, "full, coded", coding) if options.level else exact
    print(f"full: {100 * _share(exact):.2f} % right of {len(exact)}; {100 * _share(own):.2f} % with coded tokens")
    found = {}
    for variant in variants:
        outcomes = _outcomes(model, load_tower(variant.folder, part, packed=False), examples, variant.name, coding)
        found[variant.name] = {
            "parameters": variant.manifest.parameters,
            "file_bytes": variant.weight_bytes,
            "accuracy": _share(outcomes),
            "lost_points": round(100 * (_share(exact) - _share(outcomes)), 2),
            "worst_kind": _worst_kind(exact, outcomes),
            "time_ratio": ratios[variant.name],
        }
        print(f"{variant.name}: {found[variant.name]}", flush=True)
    whole = {"accuracy": _share(exact), "level": options.level, "coded_accuracy": _share(own)}
    print(json.dumps({"model": model, "questions": len(own), **whole, "variants": found}))


@torch.inference_mode()
def _time_ratios(part: DevicePart, towers: dict[str, TorchTower], model: str, pictures: int) -> dict[str, float]:
    every = {"": part.tower, **towers}
    took_s: dict[str, list[float]] = {name: [] for name in every}
    for image, question in samples(pictures + WARM_UP, model):
        inputs = part.inputs(Prompt.about(image, question))
        for name, tower in every.items():
            began_s = time.perf_counter()
            tower.tokens(inputs)
            took_s[name].append(time.perf_counter() - began_s)
    medians = {name: median(seconds[WARM_UP:]) for name, seconds in took_s.items()}
    return {name: round(medians[name] / medians[""], 3) for name in towers}


def _outcomes(
    model: str, tower: TorchTower | None, examples: list[Any], name: str, coding: Callable[[Any], Any]
) -> list[Outcome]:
    network, processor = load_whole(model)
    if tower is not None:
        network.model.vision_model = tower.model.model.vision_model
        network.model.connector = tower.model.model.connector
    network.model.connector = coding(network.model.connector)
    with show_progress(f"Asking {name}") as told:
        return answers(network, processor, examples, lambda done: told(done, len(examples)))


def _share(outcomes: list[Outcome]) -> float:
    return sum(outcome.right for outcome in outcomes) / len(outcomes)


def _worst_kind(own: list[Outcome], outcomes: list[Outcome]) -> str:
    """Returns the kind of question that loses the largest share of its answers, with that share in points."""
    asked = Counter(outcome.kind for outcome in own)
    lost = Counter(o.kind for o in own if o.right)
    lost.subtract(Counter(o.kind for o in outcomes if o.right))
    kinds = [kind for kind, number in asked.items() if number >= LEAST_OF_A_KIND] or list(asked)
    worst = max(kinds, key=lambda kind: lost[kind] / asked[kind])
    return f"{worst}: {100 * lost[worst] / asked[worst]:.1f} points of {asked[worst]} questions"


if __name__ == "__main__":
    main()
