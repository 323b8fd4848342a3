"""What a process started for itself ends with it, also when it is killed: workers and nodes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nodes import until

POOL = """
import os, time
from splitvlm.node.process_pool import worker_pool
if __name__ == "__main__":
    with worker_pool(2) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600).result()
"""
NODES = """
import asyncio, pathlib, sys
from splitvlm.tools.launcher import Launcher
async def main():
    async with Launcher(pathlib.Path(sys.argv[1])) as launcher:
        node = await launcher.start("orchestrator", {})
        print(node.process.pid, flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("program", [POOL, NODES], ids=["workers", "nodes"])
def test_they_end_when_their_parent_is_killed(program: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(program)
    with subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _runs(child)
        parent.kill()
    asyncio.run(until(lambda: not _runs(child)))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and nobody has asked yet how
