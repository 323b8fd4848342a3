"""Runs `splitvlm` and parts of tests in processes forked from one that has imported torch and transformers already.

Such a process has its own memory, file descriptors, standard streams and exit code, as a newly started one has, but is ready in
milliseconds instead of the seconds that importing the libraries takes. Nodes of `ForkedLauncher` are such processes, too; tests
of what a start itself does (TLS, memory, orphans, the README, the demo) start nodes anew.
"""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from splitvlm.node.lifecycle import LAUNCHER
from splitvlm.tools.launcher import Launcher

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


class ForkedLauncher(Launcher):
    """Starts nodes as forks. All else is the launcher's: keys, configurations, ready lines, logs, signals, exit codes."""

    async def _spawn(self, arguments: Sequence[str], log: Path) -> asyncio.subprocess.Process:
        reader, writer = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_run_node, args=(arguments, writer, str(log)))
        process.start()
        writer.close()
        stdout, loop = asyncio.StreamReader(), asyncio.get_running_loop()
        pipe = os.fdopen(os.dup(reader.fileno()), "rb", buffering=0)
        reader.close()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), pipe)
        return cast(asyncio.subprocess.Process, ForkedProcess(process, stdout))


class ForkedProcess:
    """What is used here of asyncio's Process, of a forked one."""

    def __init__(self, process: Any, stdout: asyncio.StreamReader) -> None:
        self.pid: int = process.pid
        self.stdout = stdout
        self._process = process
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(process.sentinel, self._end)

    @property
    def returncode(self) -> int | None:
        """Returns the exit code, or minus the signal that ended the process; None while it runs."""
        return cast("int | None", self._process.exitcode)

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._ended.set()


def _run_node(arguments: Sequence[str], writer: Connection, log: str) -> None:
    os.setsid()
    os.environ[LAUNCHER] = str(os.getppid())  # the process that forks ends with the one that tests
    _redirect(os.dup(writer.fileno()), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
    writer.close()
    sys.argv = ["splitvlm", *arguments]
    importlib.import_module("splitvlm.cli").main()


def _run(module: str, function: str, arguments: Sequence[str], cwd: str, out: str, err: str) -> None:
    os.chdir(cwd)
    _redirect(*(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) for file in (out, err)))
    sys.argv = ["splitvlm", *arguments]
    getattr(importlib.import_module(module), function)()


def _redirect(stdout: int, stderr: int) -> None:
    """Makes the standard streams anew: Python's know whether the file that they had before can be sought in."""
    for number, descriptor in ((1, stdout), (2, stderr)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
