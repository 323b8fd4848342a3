"""Runs `splitvlm` and parts of tests in processes forked from one that has imported torch and transformers already.

Such a process has its own memory, file descriptors, standard streams and exit code, as a newly started one has, but is ready in
milliseconds instead of the seconds that importing the libraries takes. Tests with the launcher start nodes anew.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["splitvlm", "tests.preloaded"])
TIMEOUT_S = 120.0


def splitvlm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a verb to its end."""
    return forked("splitvlm.cli", "main", arguments, cwd)


def forked(
    module: str, function: str, arguments: Sequence[str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Calls `module.function()` with sys.argv set to the arguments; returns its exit code and what it said.

    Raises subprocess.TimeoutExpired after two minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _CONTEXT.Process(
            target=_run, args=(module, function, arguments, str(cwd or Path.cwd()), str(out), str(err))
        )
        process.start()
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([module, function, *arguments], TIMEOUT_S)
        said = [file.read_text("utf-8", "replace") if file.exists() else "" for file in (out, err)]
        return subprocess.CompletedProcess([*arguments], process.exitcode, *said)


def _run(module: str, function: str, arguments: Sequence[str], cwd: str, out: str, err: str) -> None:
    os.chdir(cwd)
    for number, file in ((1, out), (2, err)):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["splitvlm", *arguments]
    getattr(importlib.import_module(module), function)()
