"""What a person sees of long work: a bar on a terminal, a line now and then where standard error goes elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

LINE_S = 30.0  # between lines

Told = Callable[[int, int], None]
"""Takes how much is done and how much there is."""


@contextmanager
def waiting(what: str, console: Console | None = None) -> Iterator[Told]:
    """Gives what the work tells of itself by. `what` says what is done, as in "Asking scenes"."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, console)
        return
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _lines(what: str, console: Console) -> Told:
    next_s = time.monotonic() + LINE_S

    def told(done: int, total: int) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            console.print(f"{what}: {done:,} of {total:,}")
            next_s = time.monotonic() + LINE_S

    return told
