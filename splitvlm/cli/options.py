"""Types and checks of options that several verbs have: checked while the line is parsed, before any work is done."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import typer

BundleOption = Annotated[
    Path | None, typer.Option("--bundle", help="folder of what was learned about the model; by default the user's own")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="seed of the random choices")]
KeysOption = Annotated[Path, typer.Option("--keys", help="folder of this application's keys")]
PlaintextOption = Annotated[bool, typer.Option("--plaintext", help="use no TLS; allowed on loopback only")]
TemperatureOption = Annotated[
    float, typer.Option(help="0 takes the most likely token each time; above it tokens are drawn, 1 as the model says")
]
TopPOption = Annotated[
    float, typer.Option(help="draw among the most likely tokens that have this much of the probability")
]


def finite(value: float | None) -> float | None:
    """Refuses NaN and infinity, which pass every range."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("it must be a finite number")
    return value


def writable_file(path: Path | None) -> Path | None:
    """Refuses a file that could not be written after the work; its folder is made when it is."""
    if path is None or str(path) == "-" or path.is_char_device():
        return path
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder")
    writable_folder(path.parent)
    if path.exists() and not _may(path, os.W_OK):
        raise typer.BadParameter(f"{path} may not be written")
    return path


def writable_folder(path: Path) -> Path:
    """Refuses a path that is not a folder, or could not be made or written after the work."""
    nearest = path.absolute()
    while not nearest.exists() and not nearest.is_symlink():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise typer.BadParameter(f"{nearest} is no folder")
    if not _may(nearest, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"the folder {nearest} may not be written")
    return path


def _may(path: Path, mode: int) -> bool:
    """Tells whether this process may, by what it may really do: a container's user may have more rights than its number."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
