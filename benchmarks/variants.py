"""What the forms of the device's part give up and gain: accuracy, bytes, memory and time of each, beside the model's own.

    accuracy          share of right answers with the variant's visual tokens, lossless, over held-out questions
    worst_kind        kind of question that loses the largest share, and that share
    bytes_at_tokens   mean payload at `tokens` in one codec level (--level), over some of the same questions
    stage_ms          least milliseconds of the tower and connector for one tile, by the fastest back end here
    rss_mib           largest resident memory of a process that loads the part at `tokens` and runs it, with its libraries
    file_bytes        of the weights: the variant's files; of `fp32`, four bytes a parameter

`fp32` is the model's own part. Questions are answered in batches by transformers' `generate`, so that only the tower differs.
`python benchmarks/variants.py [--questions 5000] [--only NAME,...] [--store DIR] [--plot FILE]`. Variants that
and rows that are in --store are taken from there. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from variant_plot import draw

from splitvlm.bundle import open_bundle
from splitvlm.domain import FULL, TOKENS
from splitvlm.evaluation.answers import Example, drawn, measure
from splitvlm.files.text import parse_json, read_json
from splitvlm.local_model import LocalModel
from splitvlm.model.boundary import HIDDEN
from splitvlm.model.loading import load_whole
from splitvlm.model.prompt import Prompt
from splitvlm.model.tower import Tower
from splitvlm.node.progress import show_progress
from splitvlm.settings import ModelChoice
from splitvlm.variants.device_forms import load_forms
from splitvlm.variants.folder import Variant, read_variant
from splitvlm.variants.make import make_variant

MODEL = "scenes"
OWN = "fp32"
SIZED = 300  # questions whose payloads are measured


@dataclass(frozen=True)
class Recipe:
    """Says how a variant of the table is made; `of` is the entry whose tower it takes."""

    kind: str
    options: tuple[str, ...] = ()
    of: str = ""
    samples: int = 300


@dataclass(frozen=True)
class Asking:
    """Says what every form is asked."""

    questions: int
    seed: int
    level: str


RECIPES: dict[str, Recipe] = {
    "onnx": Recipe("onnx"),
    "int8-static": Recipe("int8-static"),
    "int8-dynamic": Recipe("int8-dynamic"),
    "int4-weights": Recipe("int4-weights"),
    "pruned-30": Recipe("pruned", ("share=0.3", "steps=150"), samples=2_400),
    "pruned-50": Recipe("pruned", ("share=0.5", "steps=300"), samples=2_400),
    "student-tower": Recipe("student-tower", ("steps=500",), samples=2_400),
    "student-int8": Recipe("int8-static", of="student-tower"),
    "codec-tuned": Recipe("codec-tuned", ("level=int2", "steps=500"), samples=2_400),
}
QUICK = ("int8-dynamic",)


def main() -> None:
    options = _arguments()
    if options.alone is not None:
        print(json.dumps(_alone(options.alone)))
        return
    names = options.only.split(",") if options.only else list(QUICK if options.quick else RECIPES)
    questions = 60 if options.quick else options.questions
    asking = Asking(questions, options.seed, options.level)
    with TemporaryDirectory() as passing:
        store = options.store or Path(passing)
        store.mkdir(parents=True, exist_ok=True)
        if options.row:
            _row(options.row, store, asking)
            return
        rows = {name: _row(name, store, asking) for name in (OWN, *names)}
    rows = {name: row | _worst(row["kinds"], rows[OWN]["kinds"]) for name, row in rows.items()}
    _print(rows)
    if options.plot:
        draw(rows, options.plot)
    print(json.dumps({"model": MODEL, **asdict(asking), "variants": rows}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--level", default="klt3")
    parser.add_argument("--only", default="", help=f"some of {', '.join(RECIPES)}")
    parser.add_argument("--store", type=Path, help="folder of the variants; those that are there are taken")
    parser.add_argument("--plot", type=Path, help="PNG of accuracy over time and over bytes")
    parser.add_argument("--quick", action="store_true", help="one variant, few questions")
    parser.add_argument("--row", help="measure this one alone, and keep it in --store for a later run")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    return parser.parse_args()


def _made(name: str, store: Path) -> Variant:
    recipe, folder = RECIPES[name], store / name
    if not (folder / "variant.json").is_file():
        of = (f"of={_made(recipe.of, store).folder}",) if recipe.of else ()
        print(f"Making {name} ...", file=sys.stderr)
        make_variant(recipe.kind, MODEL, folder, name=name, samples=recipe.samples, options=(*recipe.options, *of))
    return read_variant(folder, open_bundle(MODEL).spec)


def _row(name: str, store: Path, asking: Asking) -> dict[str, Any]:
    """Returns the row of one form, from the store where it was measured before with as many questions."""
    path = store / f"{name}-{asking.questions}-{asking.seed}-{asking.level}.json"
    if path.is_file():
        kept: dict[str, Any] = read_json(path)
        return kept
    variants = [] if name == OWN else [_made(name, store)]
    row = _measured(name, variants, asking)
    path.write_text(json.dumps(row), "utf-8")
    return row


def _measured(name: str, variants: list[Variant], asking: Asking) -> dict[str, Any]:
    local = LocalModel.load(MODEL, [TOKENS], variants=variants)
    form = FULL if name == OWN else name
    network, processor = load_whole(MODEL)
    network.model.get_image_features = _features(local.form(form).part.tower)
    examples = list(drawn(asking.questions, asking.seed))
    with show_progress(f"Asking {name}") as told:
        figures = measure(network, processor, examples, told, blank_questions=0)
    return {
        **(_sizes_of(variants[0]) if variants else _sizes_of_own()),
        **_in_a_process(str(variants[0].folder) if variants else ""),
        "accuracy": round(figures["accuracy"], 5),
        "kinds": {kind: round(entry["accuracy"], 5) for kind, entry in figures["kinds"].items()},
        "bytes_at_tokens": round(fmean(_payloads(local, form, asking.level, examples)), 1),
    }


def _worst(kinds: dict[str, float], own_kinds: dict[str, float]) -> dict[str, Any]:
    worst = max(kinds, key=lambda kind: own_kinds[kind] - kinds[kind])
    return {"worst_kind": worst, "worst_drop": round(own_kinds[worst] - kinds[worst], 5)}


def _features(tower: Tower) -> Any:
    """Returns what `generate` calls for the visual tokens of pictures [B, 1, 3, H, W], one picture a row."""

    def features(pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor | None = None, **_: Any) -> Any:
        ids = torch.zeros((1, 1), dtype=torch.long)
        rows = [tower.tokens({"pixel_values": pixels[None], "input_ids": ids})[HIDDEN] for pixels in pixel_values]
        return SimpleNamespace(pooler_output=[row.float() for row in rows])

    return features


def _payloads(local: LocalModel, form: str, level: str, examples: list[Example]) -> Iterator[int]:
    for example in examples[:SIZED]:
        boundary = local.boundary(Prompt.about(example.image, example.question), TOKENS, form)
        yield len(boundary.encode(level))


def _sizes_of(variant: Variant) -> dict[str, int]:
    return {"parameters": variant.manifest.parameters, "file_bytes": variant.weight_bytes}


def _sizes_of_own() -> dict[str, int]:
    parameters = open_bundle(MODEL).spec.tower_bytes(TOKENS, "float32") // 4
    return {"parameters": parameters, "file_bytes": 4 * parameters}


def _in_a_process(folder: str) -> dict[str, float]:
    """Returns `stage_ms` and `rss_mib` of a process of its own."""
    command = [sys.executable, __file__, "--alone", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = parse_json(done.stdout.splitlines()[-1], "a variant's process")
    return result


def _alone(folder: str) -> dict[str, float]:
    import time

    bundle = open_bundle(MODEL)
    variants = [read_variant(Path(folder), bundle.spec)] if folder else []
    name = variants[0].name if variants else FULL
    part = load_forms(ModelChoice(name=MODEL, dtype="float32"), {name: [TOKENS]}, bundle, variants)[name].part
    example = next(drawn(1, 0))
    inputs = part.inputs(Prompt.about(example.image, example.question))
    took_s = []
    with torch.inference_mode():
        for _ in range(30):
            began_s = time.perf_counter()
            part.tower.tokens(inputs)
            took_s.append(time.perf_counter() - began_s)
    return {"stage_ms": round(1e3 * min(took_s), 2), "rss_mib": round(_peak_kib() / 1_024, 1)}


def _peak_kib() -> int:
    """Returns the largest resident memory of this program; `getrusage` would count that of the process that forked it."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def _print(rows: dict[str, Any]) -> None:
    table = Table(title=f"{MODEL}: forms of the device's part", title_justify="left")
    columns = ("variant", "parameters", "file KiB", "MiB", "ms", "accuracy %", "drop, points", "worst kind", "bytes")
    for column in columns:
        table.add_column(column, justify="left" if column in ("variant", "worst kind") else "right")
    for name, row in rows.items():
        drop = rows[OWN]["accuracy"] - row["accuracy"]
        table.add_row(
            name, f"{row['parameters']:,}", f"{row['file_bytes'] / 1024:.0f}", f"{row['rss_mib']:.0f}",
            f"{row['stage_ms']:.1f}", f"{100 * row['accuracy']:.2f}", f"{100 * drop:.2f}",
            f"{row['worst_kind']} {100 * row['worst_drop']:.1f}", f"{row['bytes_at_tokens']:.0f}",
        )  # fmt: skip
    Console(width=max(Console().width, 110)).print(table)


if __name__ == "__main__":
    main()
