"""Shows a training: a bar with loss and time left on a terminal, a line now and then where standard error goes elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_S = 30.0  # between lines
SMOOTHING = 0.95  # of the loss that is shown: a batch's own jumps

Show = Callable[[int, float], None]
"""Is called with how many steps are done and the loss of the last one."""


@contextmanager
def show_training(what: str, steps: int, console: Console | None = None) -> Iterator[Show]:
    """Yields the callable by which a training reports its steps. `what` says what is done, such as "Training pruned"."""
    console = console or Console(stderr=True)
    smooth = _smoothed()
    if not console.is_terminal:
        yield _lines(what, steps, console, smooth)
        return
    columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("loss {task.fields[loss]:.4f}"), console=console, transient=True) as bars:
        bar = bars.add_task(what, total=steps, loss=float("nan"))
        yield lambda done, loss: bars.update(bar, completed=done, loss=smooth(loss))


def _smoothed() -> Callable[[float], float]:
    shown: list[float] = []

    def smooth(loss: float) -> float:
        shown[:] = [SMOOTHING * shown[0] + (1 - SMOOTHING) * loss if shown else loss]
        return shown[0]

    return smooth


def _lines(what: str, steps: int, console: Console, smooth: Callable[[float], float]) -> Show:
    begin_s = next_s = time.monotonic()
    begin = -1  # steps that were done before this process

    def show(done: int, loss: float) -> None:
        nonlocal next_s, begin
        begin = done - 1 if begin < 0 else begin
        shown, now_s = smooth(loss), time.monotonic()
        if now_s >= next_s or done == steps:
            left_s = (now_s - begin_s) / (done - begin) * (steps - done)
            console.print(f"{what}: step {done:,} of {steps:,}, loss {shown:.4f}, {left_s / 60:.1f} min left")
            next_s = now_s + LINE_S

    return show
