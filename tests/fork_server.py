"""A process that has imported torch and transformers, and forks for each request that comes over its Unix socket.

A fork has its own memory, descriptors, standard streams and exit code, as a newly started process has, but is ready in
milliseconds instead of the seconds that importing the libraries takes. tests/fork_client.py is the other end. The protocol:

    client -> server   one line of JSON (`Request`), with the descriptors of standard input, output and error
    server -> client   the fork's process id, one line; later its exit code, or minus its signal's number, one line

A fork whose client is gone is told to end. The server ends when its standard input does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from splitvlm.node.lifecycle import LAUNCHER
from splitvlm.tools.launcher import Launcher
from tests.fork_client import MAX_LINE_BYTES, STREAMS, Request


class Server:
    """Accepts requests and tells clients how their forks ended. It has one thread: a fork has no other."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._clients: dict[int, socket.socket] = {}  # by process id of the fork
        self._ended, self._wakeup = socket.socketpair()
        self._ended.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever tests, with whom this process ends
        self._selector = selectors.DefaultSelector()
        handlers = {sys.stdin: self._end, listener: self._accept, self._ended: self._tell_ends}
        for source, handle in handlers.items():
            self._selector.register(source, selectors.EVENT_READ, handle)

    def serve(self) -> Request:
        """Returns once in each fork, with its request. Raises SystemExit in the server, once its standard input has ended."""
        while True:
            for key, _ in self._selector.select():
                handle: Callable[[], Request | None] = key.data
                request = handle()
                if request is not None:
                    return request

    def _accept(self) -> Request | None:
        client, _ = self._listener.accept()
        line, streams, *_ = socket.recv_fds(client, MAX_LINE_BYTES, STREAMS)
        while not line.endswith(b"\n"):
            more = client.recv(MAX_LINE_BYTES)
            if not more:  # the client ended before it had asked
                client.close()
                return None
            line += more
        process_id = os.fork()
        if process_id == 0:
            client.close()
            self._leave()
            _use(streams)
            return cast(Request, json.loads(line))
        for stream in streams:
            os.close(stream)
        self._clients[process_id] = client
        self._selector.register(client, selectors.EVENT_READ, lambda: self._stop(process_id))
        client.sendall(b"%d\n" % process_id)
        return None

    def _leave(self) -> None:
        """Drops in a fork what is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        for end in (self._listener, self._ended, self._wakeup, *self._clients.values()):
            end.close()

    def _tell_ends(self) -> None:
        self._ended.recv(MAX_LINE_BYTES)
        while self._clients:
            process_id, status = os.waitpid(-1, os.WNOHANG)
            if process_id == 0:
                return
            client = self._clients.pop(process_id)
            with contextlib.suppress(KeyError):  # it was stopped
                self._selector.unregister(client)
            with contextlib.suppress(OSError):
                client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            client.close()

    def _stop(self, process_id: int) -> None:
        """Ends a fork whose client is gone: clients say nothing after their request."""
        self._selector.unregister(self._clients[process_id])
        os.kill(process_id, signal.SIGTERM)

    def _end(self) -> None:
        for process_id in self._clients:
            os.kill(process_id, signal.SIGTERM)
        sys.exit()


def main() -> None:
    importlib.import_module("tests.preloaded")
    gc.freeze()  # collections in forks leave shared pages alone
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(64)
        request = Server(listener).serve()
    os._exit(_run(request))


def _use(streams: list[int]) -> None:
    """Makes the standard streams anew: Python's know whether the file that they had before can be sought in."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115


def _run(request: Request) -> int:
    """Returns the exit code that Python would end with."""
    atexit._clear()
    try:
        _prepare(request)
        return _exit_code(lambda: _called(request))
    finally:
        _exit_code(threading._shutdown)  # type: ignore[attr-defined]
        _exit_code(atexit._run_exitfuncs)
        _exit_code(sys.stdout.flush)


def _prepare(request: Request) -> None:
    from tests.forked import ForkedLauncher

    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["session"]:
        os.setsid()
        os.environ[LAUNCHER] = str(os.getppid())  # which stops forks whose client is gone
    Launcher._spawn = ForkedLauncher._spawn  # type: ignore[method-assign]


def _called(request: Request) -> None:
    if request["module"]:
        sys.argv = ["splitvlm", *request["arguments"]]
        getattr(importlib.import_module(request["module"]), request["function"])()
        return
    sys.argv = [request["function"], *request["arguments"]]
    sys.path.insert(0, str(Path(request["function"]).parent))
    runpy.run_path(request["function"], run_name="__main__")


def _exit_code(work: Callable[[], Any]) -> int:
    try:
        work()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001  as Python itself does
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
