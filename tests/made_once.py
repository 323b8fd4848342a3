"""What all processes of a test run share, made by whichever needs it first.

Each process that shares the tests, and each fork of a test, would else make the same models and files again.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

VARIABLE = "SPLITVLM_TESTS_SHARED"  # a folder, set by conftest.py, which removes it


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """Returns the folder of that name, which `make` has filled; nobody may change what is in it."""
    shared = Path(os.environ.get(VARIABLE) or mkdtemp(prefix="splitvlm-tests-"))
    folder, unfinished = shared / name, shared / f"{name}.unfinished"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it ends with the file
        if not folder.exists():
            make(unfinished)
            unfinished.rename(folder)
    return folder
