"""Asks tests/fork_server.py for forks. It imports the standard library only: a shell's command that uses it is quick."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

SOCKET = "SPLITVLM_FORK_SERVER"  # environment: the socket of a server that runs
STREAMS = 3
MAX_LINE_BYTES = 1 << 20
START_TIMEOUT_S = 300.0  # a machine that does much else imports slowly
ROOT = Path(__file__).parents[1]


class Request(TypedDict):
    """Says what a fork runs: `module.function()`, or the script `function` where there is no module."""

    module: str
    function: str
    arguments: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    session: bool  # a session of its own, for a node, which must not get its launcher's Ctrl-C


class Fork:
    """Holds a process that was forked for this one, with subprocess' words."""

    def __init__(self, request: Request, streams: Sequence[int]) -> None:
        """Returns when it runs."""
        self._client = _connected()
        line = json.dumps(request).encode() + b"\n"
        self._client.sendall(line[socket.send_fds(self._client, [line], [*streams]) :])
        self._told = b""
        self.returncode: int | None = None
        self.pid = int(self._line())

    def fileno(self) -> int:
        """Returns the descriptor that can be read from once the process has ended."""
        return self._client.fileno()

    def wait(self, timeout_s: float | None = None) -> int:
        """Returns the exit code, or minus the signal that ended the process. Raises TimeoutError."""
        if self.returncode is None:
            self._client.settimeout(timeout_s)
            self.returncode = int(self._line())
            self._client.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def _line(self) -> bytes:
        while b"\n" not in self._told:
            some = self._client.recv(64)
            if not some:
                raise ConnectionError("The fork server is gone.")
            self._told += some
        line, _, self._told = self._told.partition(b"\n")
        return line


def start_server() -> None:
    """Starts a server for this process and those that it starts; it imports its libraries while they go on."""
    folder = tempfile.mkdtemp(prefix="splitvlm-forks-")
    os.environ[SOCKET] = f"{folder}/socket"
    command = [sys.executable, "-m", "tests.fork_server", os.environ[SOCKET]]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE)
    atexit.register(_stop, process, folder)


def _stop(process: subprocess.Popen[bytes], folder: str) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    shutil.rmtree(folder)


def _connected() -> socket.socket:
    """Connects to the server that the environment names, or to one that is started for this process."""
    if SOCKET not in os.environ:
        start_server()
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(os.environ[SOCKET])
            return client
        except (FileNotFoundError, ConnectionRefusedError):  # it imports its libraries
            client.close()
            if time.monotonic() > give_up_s:
                raise
            time.sleep(0.05)


def main() -> None:
    """Stands in a shell for `splitvlm`: a fork with the same arguments, folder, environment, streams, signals and exit code."""
    request = Request(
        module="splitvlm.cli",
        function="main",
        arguments=sys.argv[1:],
        folder=os.getcwd(),
        environment=dict(os.environ),
        session=False,
    )
    fork = Fork(request, range(STREAMS))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: fork.send_signal(number))
    code = fork.wait()
    sys.exit(code if code >= 0 else 128 - code)  # as shells tell of signals
