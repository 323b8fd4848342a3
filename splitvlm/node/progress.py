"""Shows people how long work goes on: a bar on a terminal, a line now and then where standard error goes elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console

LINE_S = 30.0  # between lines

Progress = Callable[[int, int], None]
"""Is called with how much is done and how much there is."""


@contextmanager
def show_progress(what: str, console: Console | None = None) -> Iterator[Progress]:
    """Yields the callable by which work reports its progress. `what` says what is done, such as "Asking scenes"."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, console)
        return
    with rich_progress.Progress(console=console, transient=True) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _lines(what: str, console: Console) -> Progress:
    next_s = time.monotonic() + LINE_S

    def report(done: int, total: int) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            console.print(f"{what}: {done:,} of {total:,}")
            next_s = time.monotonic() + LINE_S

    return report
