"""Runs `splitvlm`, parts of tests, scripts and nodes as forks of a process that has imported torch and transformers already.

tests/fork_server.py says what such a process is. Tests of what a start itself does (TLS, memory, orphans, the README) start
processes anew.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from splitvlm.tools.launcher import Launcher
from tests.fork_client import Fork, Request

TIMEOUT_S = 120.0


def splitvlm(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a verb to its end."""
    return forked("splitvlm.cli", "main", arguments, cwd)


def script(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a file of Python to its end."""
    return forked("", str(path), arguments)


def forked(
    module: str, function: str, arguments: Sequence[str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Calls `module.function()` with sys.argv set to the arguments; returns its exit code and what it said.

    Raises subprocess.TimeoutExpired after two minutes.
    """
    with Path(os.devnull).open() as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        request = _request(module, function, arguments, cwd or Path.cwd(), session=False)
        fork = Fork(request, [stream.fileno() for stream in (nothing, out, err)])
        try:
            code = fork.wait(TIMEOUT_S)
        except TimeoutError as error:
            fork.send_signal(signal.SIGKILL)
            fork.wait()
            raise subprocess.TimeoutExpired([module, function, *arguments], TIMEOUT_S) from error
        return subprocess.CompletedProcess([*arguments], code, _said(out), _said(err))


class ForkedLauncher(Launcher):
    """Starts nodes as forks. All else is the launcher's: keys, configurations, ready lines, logs, signals, exit codes."""

    async def _spawn(self, arguments: Sequence[str], log: Path) -> asyncio.subprocess.Process:
        return cast(asyncio.subprocess.Process, await start_forked("splitvlm.cli", "main", arguments, log))


async def start_forked(module: str, function: str, arguments: Sequence[str], log: Path) -> ForkedProcess:
    """Starts `module.function()` with sys.argv set to the arguments, its standard error at the end of `log`."""
    stdin, (reader, writer) = os.open(os.devnull, os.O_RDONLY), os.pipe()
    with log.open("ab") as stderr:
        request = _request(module, function, arguments, Path.cwd(), session=True)
        fork = Fork(request, [stdin, writer, stderr.fileno()])
    for descriptor in (stdin, writer):
        os.close(descriptor)
    stdout, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    pipe = os.fdopen(reader, "rb", buffering=0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), pipe)
    return ForkedProcess(fork, stdout)


class ForkedProcess:
    """Is used like asyncio's Process, of which it has what is needed here."""

    def __init__(self, fork: Fork, stdout: asyncio.StreamReader) -> None:
        self.pid = fork.pid
        self.stdout = stdout
        self._fork = fork
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(fork.fileno(), self._end)

    @property
    def returncode(self) -> int | None:
        """Returns the exit code, or minus the signal that ended the process; None while it runs."""
        return self._fork.returncode

    def send_signal(self, number: int) -> None:
        self._fork.send_signal(number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        await self._ended.wait()
        return self._fork.wait()

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fork.fileno())
        self._fork.wait()
        self._ended.set()


def _request(module: str, function: str, arguments: Sequence[str], folder: Path, *, session: bool) -> Request:
    return Request(
        module=module,
        function=function,
        arguments=[*arguments],
        folder=str(folder),
        environment=dict(os.environ),
        session=session,
    )


def _said(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")
