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
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from splitvlm.scenes import MODEL_DIR, folder, losses, network
from splitvlm.scenes.batches import LABELS, Batch, Batches
from splitvlm.scenes.tokenizer import build_tokenizer

PEAK_RATE = 1.2e-3
WEIGHT_DECAY = 0.05
BETAS = (0.9, 0.98)
CLIP = 1.0
AVERAGE_DECAY = 0.998
CHECKPOINT = "checkpoint.pt"
CHECKPOINT_EVERY_S = 240.0
SHOW_EVERY = 20  # steps
MOST_STEPS = 1_000_000  # an upper end for runs by the clock
Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Options:
    """Holds the command line's options."""

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
        """Returns the folder of the checkpoint, beside the finished folder."""
        return self.out.with_name(self.out.name + ".training")


@dataclass
class TrainState:
    """Holds all that changes during a run. `average` is the exponential moving average of the model's weights."""

    model: SmolVLMForConditionalGeneration
    heads: losses.Heads
    optimizer: torch.optim.Optimizer
    average: AveragedModel
    step: int = 0
    spent_s: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns the checkpoint's content: state dicts and numbers, which `torch.load(weights_only=True)` reads."""
        return {
            "model": self.model.state_dict(), "heads": self.heads.state_dict(), "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(), "step": self.step, "spent_s": self.spent_s,
            "averaged": int(self.average.n_averaged),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.average.module.load_state_dict(state["average"])
        self.average.n_averaged.fill_(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent_s = state["step"], state["spent_s"]

    def save(self, path: Path) -> None:
        """Writes the checkpoint, so that a crash meanwhile leaves the earlier one whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        torch.save(self.state_dict(), fresh)
        fresh.replace(path)


def init_state(options: Options, tokenizer: PreTrainedTokenizerFast) -> TrainState:
    """Returns the state of a fresh run, or with `--resume` that of the last checkpoint."""
    model = network.fresh(tokenizer, options.seed)
    model.set_attn_implementation("eager")  # what compiles best: its softmax and its products fuse
    heads = losses.Heads(len(LABELS))
    if options.start:
        earlier = torch.load(options.start, weights_only=True)
        model.load_state_dict(earlier["average"])
        heads.load_state_dict(earlier["heads"])
    average = moving_average(model)
    if options.compile:
        model.model.vision_model.compile()
        model.model.text_model.compile()
    if options.rest:
        model.model.vision_model.requires_grad_(False)
        model.model.connector.requires_grad_(False)
    named = [*model.named_parameters(), *heads.named_parameters()]
    matrices = [p for name, p in named if p.dim() > 1 and "embed" not in name]
    others = [p for name, p in named if p.dim() <= 1 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=BETAS, foreach=True)
    state = TrainState(model, heads, optimizer, average)
    if options.resume:
        state.load_state_dict(torch.load(options.work / CHECKPOINT, weights_only=True))
    return state


def moving_average(model: nn.Module) -> AveragedModel:
    """Returns the exponential moving average of a model's weights, which is steadier than the last step's weights.

    Its decay rises to AVERAGE_DECAY, so that early steps are forgotten faster.
    """

    def average_(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        decay = min(AVERAGE_DECAY, int(count) / (int(count) + 10))
        get_ema_multi_avg_fn(decay)(averaged, current, count)

    average = AveragedModel(model, multi_avg_fn=average_)
    average.n_averaged.fill_(
        1
    )  # the starting weights count as the first; otherwise the first step's would replace them
    return average


def train_step(state: TrainState, batch: Batch, progress: float, use_bf16: bool, options: Options) -> dict[str, float]:
    """Does one step of the optimizer and returns the figures to print."""
    for group in state.optimizer.param_groups:
        group["lr"] = PEAK_RATE * losses.learning_rate_share(progress, initial_progress(options))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=use_bf16):
        loss, figures = losses.total_loss(state.model, state.heads, batch, progress, options.rest)
    loss.backward()
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, CLIP)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.average.update_parameters(state.model)
    state.step += 1
    return figures


def bf16_is_faster(state: TrainState, batch: Batch) -> bool:
    """Tells whether bfloat16 beats float32 on this machine, by one timed pass of each after one to warm up."""
    times_s = {}
    for use_bf16 in (True, False):
        for _ in range(2):
            start_s = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=use_bf16):
                loss, _ = losses.total_loss(state.model, state.heads, batch, 1.0)
            loss.backward()
            times_s[use_bf16] = time.perf_counter() - start_s
    state.optimizer.zero_grad(set_to_none=True)
    print(f"one pass: bfloat16 {times_s[True]:.2f} s, float32 {times_s[False]:.2f} s", flush=True)
    return times_s[True] < times_s[False]


def batch_stream(options: Options, state: TrainState, tokenizer: PreTrainedTokenizerFast) -> Iterator[Batch]:
    """Yields the batches from the state's step on, drawn ahead by one worker process."""
    dataset = Batches(tokenizer, options.seed, options.batch, options.steps or MOST_STEPS)
    order = range(state.step, len(dataset))
    return iter(DataLoader(dataset, batch_size=None, sampler=order, num_workers=1, prefetch_factor=6))


def progress_of(options: Options, state: TrainState) -> float:
    """Returns the share of the run that is done. A warm start enters where all parts learn together, or later."""
    if options.steps is not None:
        share = state.step / options.steps
    else:
        assert options.minutes is not None
        share = state.spent_s / (60 * options.minutes)
    return initial_progress(options) + (1 - initial_progress(options)) * share


def initial_progress(options: Options) -> float:
    """Returns the progress at which the run begins: 0, or where a warm start enters."""
    return options.enter if options.start else 0.0


def run(options: Options) -> None:
    """Trains from the options' state to the end of the run, and writes the finished folder. Exits on Ctrl-C, resumable."""
    tokenizer = build_tokenizer()
    state = init_state(options, tokenizer)
    batches = batch_stream(options, state, tokenizer)
    stop = _stop_on_interrupt()
    use_bf16 = options.precision == "bf16"
    if options.precision == "auto":
        use_bf16 = bf16_is_faster(state, next(iter(batch_stream(options, state, tokenizer))))
    print(f"{sum(p.numel() for p in state.model.parameters()):,} parameters, {len(LABELS)} grid classes", flush=True)
    saved_s = state.spent_s
    while (progress := progress_of(options, state)) < 1 and not stop:
        start_s = time.perf_counter()
        figures = train_step(state, next(batches), progress, use_bf16, options)
        state.spent_s += time.perf_counter() - start_s
        if state.step % SHOW_EVERY == 0:
            line = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            print(f"{progress:6.1%}  step {state.step}  {state.spent_s:.0f} s  {line}", flush=True)
        if state.spent_s - saved_s > CHECKPOINT_EVERY_S:
            state.save(options.work / CHECKPOINT)
            saved_s = state.spent_s
    state.save(options.work / CHECKPOINT)
    if stop:
        raise SystemExit(f"stopped at step {state.step}: go on with --resume")
    finish(options, state, tokenizer)


def finish(options: Options, state: TrainState, tokenizer: PreTrainedTokenizerFast) -> None:
    """Writes the averaged weights as a folder that transformers loads, with what it was trained by."""
    state.model.load_state_dict(state.average.module.state_dict())
    chosen = {key: value for key, value in asdict(options).items() if key not in ("out", "resume", "start", "compile")}
    totals = {"steps_run": state.step, "pictures": state.step * options.batch, "seconds": round(state.spent_s)}
    report = {**chosen, "warm_start": options.start is not None, **totals}
    folder.write(options.out, state.model.eval(), tokenizer, report)
    print(f"wrote {options.out}", flush=True)


def _stop_on_interrupt() -> list[int]:
    """Returns a list that fills when Ctrl-C comes: the step in hand is finished, then all is saved."""
    stop: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        stop.append(number)

    signal.signal(signal.SIGINT, note)
    return stop


def parse(arguments: list[str] | None = None) -> Options:
    """Reads the command line; without `arguments` that of the process."""
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
        default=losses.FROZEN_UNTIL,
        help="where in the course of the rates (0 to 1) a warm start enters; later is gentler",
    )
    parser.add_argument(
        "--rest", action="store_true", help="freeze tower and connector: only the language model learns"
    )
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
