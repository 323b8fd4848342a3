"""Trains the embedded model: `python -m splitvlm.scenes.train --out DIR (--minutes M | --steps N) [--seed S]`.

Draws its pictures as it goes (one worker process), saves a checkpoint every few minutes and on Ctrl-C, and writes the
finished folder to DIR. With `--steps` a run is a function of its seed, up to the rounding of the machine; with
`--minutes` the number of steps is whatever fits.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from splitvlm.scenes import MODEL_DIR, folder, lessons, network, tokenizer
from splitvlm.scenes.batches import LABELS, Batch, Batches

PEAK_RATE = 1.2e-3
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
CLIP = 1.0
CHECKPOINT = "checkpoint.pt"
CHECKPOINT_EVERY_S = 240.0
SHOW_EVERY = 20  # steps
MOST_STEPS = 1_000_000  # an upper end for runs by the clock


@dataclass(frozen=True)
class Options:
    out: Path
    minutes: float | None
    steps: int | None
    seed: int
    batch: int
    precision: str
    resume: bool
    start: Path | None
    enter: float
    rest: bool
    compile: bool

    @property
    def work(self) -> Path:
        """Where the checkpoint is kept, beside the finished folder."""
        return self.out.with_name(self.out.name + ".training")


@dataclass
class TrainState:
    """All that changes during a run."""

    model: SmolVLMForConditionalGeneration
    heads: lessons.Heads
    optimizer: torch.optim.Optimizer
    average: lessons.Average
    step: int = 0
    spent_s: float = 0.0

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(), "heads": self.heads.state_dict(), "average": self.average.weights,
            "optimizer": self.optimizer.state_dict(), "step": self.step, "spent_s": self.spent_s,
            "updates": self.average.updates,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.average.weights, self.average.updates = state["average"], state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent_s = state["step"], state["spent_s"]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        torch.save(self.state(), fresh)
        fresh.replace(path)


def enrol(options: Options, words: PreTrainedTokenizerFast) -> TrainState:
    """A fresh student, or the one of the last checkpoint."""
    model = network.fresh(words, options.seed)
    model.set_attn_implementation("eager")  # what compiles best: its softmax and its products fuse
    if options.compile:
        model.model.vision_model.compile()
        model.model.text_model.compile()
    heads = lessons.Heads(len(LABELS))
    if options.start:
        earlier = torch.load(options.start, weights_only=True)
        model.load_state_dict(earlier["average"])
        heads.load_state_dict(earlier["heads"])
    if options.rest:
        model.model.vision_model.requires_grad_(False)
        model.model.connector.requires_grad_(False)
    named = [*model.named_parameters(), *heads.named_parameters()]
    matrices = [p for name, p in named if p.dim() > 1 and "embed" not in name]
    others = [p for name, p in named if p.dim() <= 1 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=BETAS, foreach=True)
    student = TrainState(model, heads, optimizer, lessons.Average(model))
    if options.resume:
        student.restore(torch.load(options.work / CHECKPOINT, weights_only=True))
    return student


def teach(student: TrainState, batch: Batch, progress: float, low: bool, options: Options) -> dict[str, float]:
    """One step."""
    for group in student.optimizer.param_groups:
        group["lr"] = PEAK_RATE * lessons.rate(progress, began(options))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        loss, shown = lessons.losses(student.model, student.heads, batch, progress, options.rest)
    loss.backward()
    parameters = [p for group in student.optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, CLIP)
    student.optimizer.step()
    student.optimizer.zero_grad(set_to_none=True)
    student.average.update(student.model)
    student.step += 1
    return shown


def faster_low(student: TrainState, batch: Batch) -> bool:
    """Whether bfloat16 beats float32 on this machine, by one timed pass of each after one to warm up."""
    times = {}
    for low in (True, False):
        for _ in range(2):
            start = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
                loss, _ = lessons.losses(student.model, student.heads, batch, 1.0)
            loss.backward()
            times[low] = time.perf_counter() - start
    student.optimizer.zero_grad(set_to_none=True)
    print(f"one pass: bfloat16 {times[True]:.2f} s, float32 {times[False]:.2f} s", flush=True)
    return times[True] < times[False]


def lecture(options: Options, student: TrainState, words: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """The batches from the student's step on, drawn ahead by one worker process."""
    data = Batches(words, options.seed, options.batch, options.steps or MOST_STEPS)
    order = range(student.step, len(data))
    return iter(DataLoader(data, batch_size=None, sampler=order, num_workers=1, prefetch_factor=6))


def progress_of(options: Options, student: TrainState) -> float:
    """The share of the run that is done. A warm start enters where all parts learn together, or later."""
    if options.steps is not None:
        share = student.step / options.steps
    else:
        assert options.minutes is not None
        share = student.spent_s / (60 * options.minutes)
    return began(options) + (1 - began(options)) * share


def began(options: Options) -> float:
    return options.enter if options.start else 0.0


def run(options: Options) -> None:
    words = tokenizer.build()
    student = enrol(options, words)
    batches = lecture(options, student, words)
    stop = _stop_on_interrupt()
    low = options.precision == "bf16"
    if options.precision == "auto":
        low = faster_low(student, next(iter(lecture(options, student, words))))
    print(f"{sum(p.numel() for p in student.model.parameters()):,} parameters, {len(LABELS)} grid classes", flush=True)
    saved_s = student.spent_s
    while (progress := progress_of(options, student)) < 1 and not stop:
        start = time.perf_counter()
        shown = teach(student, next(batches), progress, low, options)
        student.spent_s += time.perf_counter() - start
        if student.step % SHOW_EVERY == 0:
            figures = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
            print(f"{progress:6.1%}  step {student.step}  {student.spent_s:.0f} s  {figures}", flush=True)
        if student.spent_s - saved_s > CHECKPOINT_EVERY_S:
            student.save(options.work / CHECKPOINT)
            saved_s = student.spent_s
    student.save(options.work / CHECKPOINT)
    if stop:
        raise SystemExit(f"stopped at step {student.step}: go on with --resume")
    finish(options, student, words)


def finish(options: Options, student: TrainState, words: PreTrainedTokenizerFast) -> None:
    student.model.load_state_dict(student.average.weights)
    told = {key: value for key, value in asdict(options).items() if key not in ("out", "resume", "start", "compile")}
    ran = {"steps_run": student.step, "pictures": student.step * options.batch, "seconds": round(student.spent_s)}
    report = {**told, "warm_start": options.start is not None, **ran}
    folder.write(options.out, student.model.eval(), words, report)
    print(f"wrote {options.out}", flush=True)


def _stop_on_interrupt() -> list[int]:
    """A list that fills when Ctrl-C comes: the step in hand is finished, then all is saved."""
    stop: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        stop.append(number)

    signal.signal(signal.SIGINT, note)
    return stop


def parse(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m splitvlm.scenes.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="the finished folder")
    parser.add_argument("--minutes", type=float, help="train for so long")
    parser.add_argument("--steps", type=int, help="train for so many steps (instead of --minutes)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=24, help="pictures a step")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--start", type=Path, help="begin with the weights of this checkpoint of another run")
    parser.add_argument(
        "--enter",
        type=float,
        default=lessons.FROZEN_UNTIL,
        help="where in the course of the rates (0 to 1) a warm start enters; later is gentler",
    )
    parser.add_argument("--rest", action="store_true", help="tower and connector rest: only the language model learns")
    compiles = shutil.which("g++") is not None
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=compiles,
        help="compile the network (a step takes 0.6 of the time; needs g++)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    options = Options(**vars(parser.parse_args(arguments)))
    if (options.minutes is None) == (options.steps is None):
        parser.error("give either --minutes or --steps")
    return options


if __name__ == "__main__":
    run(parse())
