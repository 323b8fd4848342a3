"""How long each back end and precision takes for the device's part at `tokens`, beside torch's own modules in float32.

    speedup = seconds of `torch float32` / seconds of the row, medians over rounds in turns, in one process
    cpu     = the same of processor seconds, all threads together: other work on the machine changes it less
    error   = root mean square of the differences of visual tokens, over that of torch's in float32

A row runs tower and connector on one tile whose pixels are there; preparing the picture and coding are not in it. `torch` rows
are transformers' modules as they are, `packed` those of a node (splitvlm/model/packed_linear.py). Files are variants,
made from few samples: ranges are those of a test, not of a product. `--store` keeps them for the next run.
`python benchmarks/backends.py [--quick] [--threads 2]`. Last line: JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from splitvlm.backends.catalogue import availabilities, candidates, open_stage
from splitvlm.backends.stage import PIXELS, TileStage
from splitvlm.backends.timing import COMPUTES_IN
from splitvlm.backends.torch import TorchStage
from splitvlm.domain import TOKENS
from splitvlm.errors import UsageError
from splitvlm.model.loading import load_device
from splitvlm.model.threads import use_threads
from splitvlm.profiling.cache import processor
from splitvlm.variants.export import agreement, stage_module, torch_tokens
from splitvlm.variants.make import make_variant

BASELINE = "torch float32"
KINDS = {"onnx": "float32", "int8-static": "int8", "int8-dynamic": "int8", "int4-weights": "int4"}
QUICK_KINDS = ("onnx", "int8-static")
SAMPLES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shape:smolvlm-256m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--store", type=Path, help="folder of the exported files; those that are there are taken")
    parser.add_argument("--make-only", action="store_true", help="make the files in --store, and time nothing")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out, which takes a minute")
    parser.add_argument("--quick", action="store_true", help="the embedded model, fewer rows, three rounds")
    options = parser.parse_args()
    model = "scenes" if options.quick else options.model
    use_threads(options.threads)
    with TemporaryDirectory() as passing:
        files = dict(_files(model, options.store or Path(passing), QUICK_KINDS if options.quick else tuple(KINDS)))
        if options.make_only:
            return
        rounds = 3 if options.quick else options.rounds
        rows = _timed(model, files, options.threads, rounds, compiled=not (options.quick or options.no_compile))
    _print(model, rows)
    best = min(rows, key=lambda name: rows[name]["seconds"])
    told = {"model": model, "machine": processor(), "threads": options.threads, "rounds": rounds}
    print(json.dumps(told | {"rows": rows, "best": best, "speedup": rows[best]["speedup"]}))


def _files(model: str, store: Path, kinds: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for kind in kinds:
        folder = store / kind
        if not (folder / "variant.json").is_file():
            make_variant(kind, model, folder, samples=SAMPLES, options=["judged=0"] if kind == "int8-static" else ())
        yield kind, folder / "tower.onnx"


def _timed(model: str, files: dict[str, Path], threads: int, rounds: int, *, compiled: bool) -> dict[str, Any]:
    """Returns a row for each stage that can be opened here, {"seconds", "speedup", "error", "open_s"}."""
    module, shape = stage_module(load_device(model, [TOKENS], packed=False))
    pixels = np.random.default_rng(1).standard_normal((1, 3, *shape.edge_px)).astype(np.float32)
    wanted = torch_tokens(module, pixels)
    stages: dict[str, TileStage] = {}
    rows: dict[str, Any] = {}
    for name, opened in (*_torch_stages(model, threads, compiled=compiled), *_exported_stages(files, threads)):
        began_s = time.perf_counter()
        try:
            stages[name] = opened()
        except UsageError as error:
            print(f"{name}: {error}")
            continue
        found = agreement(stages[name].run({PIXELS: pixels}), wanted)
        rows[name] = {"open_s": round(time.perf_counter() - began_s, 2), "error": float(f"{found.rms:.3g}")}
    took_s, cpu_s = _in_turns(stages, pixels, rounds)
    for name, seconds in took_s.items():
        rows[name] |= {"seconds": round(seconds, 4), "speedup": round(took_s[BASELINE] / seconds, 2)}
        rows[name] |= {"cpu_s": round(cpu_s[name], 4), "cpu_speedup": round(cpu_s[BASELINE] / cpu_s[name], 2)}
    return rows


def _torch_stages(model: str, threads: int, *, compiled: bool) -> Iterator[tuple[str, Callable[[], TileStage]]]:
    def stage(dtype: str, *, packed: bool = False, compiled: bool = False) -> TileStage:
        part = load_device(model, [TOKENS], dtype=dtype, packed=packed)
        return TorchStage(*stage_module(part), compiled=compiled, threads=threads)

    yield BASELINE, lambda: stage("float32")
    yield "torch packed float32", lambda: stage("float32", packed=True)
    if "bfloat16" in availabilities()[0].precisions:
        yield "torch packed bfloat16", lambda: stage("bfloat16", packed=True)
    if compiled:
        yield "torch-compile float32", lambda: stage("float32", compiled=True)


def _exported_stages(files: dict[str, Path], threads: int) -> Iterator[tuple[str, Callable[[], TileStage]]]:
    for kind, path in files.items():
        for entry in candidates(path):
            backend = entry.backend
            for precision in entry.precisions:
                # The float32 file in bfloat16 is the variant `onnx` made with `precision=bfloat16`.
                if precision in COMPUTES_IN[KINDS[kind]] or kind == "onnx":
                    name = f"{backend} {precision}" if kind == "onnx" else f"{backend} {kind}, rest {precision}"
                    yield name, partial(open_stage, path, backend, threads=threads, precision=precision)


def _in_turns(
    stages: dict[str, TileStage], pixels: NDArray[np.float32], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the median seconds of each stage, by the clock and of processors; all run once in each round."""
    took_s: dict[str, list[float]] = {name: [] for name in stages}
    cpu_s: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, stage in stages.items():
            began_s, cpu_began_s = time.perf_counter(), time.process_time()
            stage.run({PIXELS: pixels})
            took_s[name].append(time.perf_counter() - began_s)
            cpu_s[name].append(time.process_time() - cpu_began_s)
    return {name: median(s) for name, s in took_s.items()}, {name: median(s) for name, s in cpu_s.items()}


def _print(model: str, rows: dict[str, Any]) -> None:
    table = Table(title=f"{model} at tokens, one tile")
    for column in ("back end", "ms", "times as fast", "by cpu", "error", "opened in s"):
        table.add_column(column, justify="left" if column == "back end" else "right")
    for name, row in sorted(rows.items(), key=lambda item: float(item[1]["seconds"])):
        speedups = (f"{row['speedup']:.2f}", f"{row['cpu_speedup']:.2f}")
        table.add_row(name, f"{1e3 * row['seconds']:.1f}", *speedups, f"{row['error']:.2g}", f"{row['open_s']}")
    Console().print(table)


if __name__ == "__main__":
    main()
