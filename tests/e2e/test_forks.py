"""Forks of tests/fork_server.py end as processes do, and with whoever asked for them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.fork_client import Fork, Request
from tests.forked import script, start_forked
from tests.nodes import until


def endless() -> None:
    """Tells its process id, and then nothing more."""
    print(os.getpid(), flush=True)
    time.sleep(600)


def parent() -> None:
    """Asks for a fork that outlives it, were it not for the server."""
    environment = dict(os.environ)
    request = Request(
        module=__name__, function="endless", arguments=[], folder=".", environment=environment, session=True
    )
    Fork(request, [0, 1, 2]).wait()


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("print('done')", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('a sentence')", 1, "a sentence"),
        ("raise ValueError('a fault')", 1, "ValueError: a fault"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_exit_codes_and_streams_are_those_of_a_process(program: str, code: int, says: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(f"print('begins', flush=True); {program}")
    done = script(file)
    assert done.returncode == code
    assert done.stdout.startswith("begins\n")
    assert says in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_fork_ends_with_the_process_that_asked_for_it(tmp_path: Path) -> None:
    process = await start_forked(__name__, "parent", [], tmp_path / "log")
    child = int(await process.stdout.readline())
    assert _runs(child)
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    await until(lambda: not _runs(child))


def _runs(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists()
