"""Runs the README's blocks as a newcomer would, in a copy of the files that they name, with this environment's commands.

Left out: blocks that begin with `make` (the Makefile's own verbs, which CI and people run on a fresh clone).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitvlm.scenes import MODEL_DIR

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
SERVERS = [block for block in BLOCKS if block.startswith("# terminal")]
COMMANDS = [block for block in BLOCKS if not block.startswith(("# terminal", "make"))]

pytestmark = [
    pytest.mark.alone,
    pytest.mark.timeout(600),  # it measures every plan of the embedded model
    pytest.mark.skipif(not (MODEL_DIR / "model.safetensors").exists(), reason="the embedded model is missing"),
]


def environment() -> dict[str, str]:
    commands = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the examples and an activated-by-name environment."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    activate = tmp_path / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("")
    return tmp_path


def run(block: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", block], cwd=folder, env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def servers(folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    try:
        yield started
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
        codes = [process.wait(30) for process in started]
    assert codes == [0] * len(started)


def start(block: str, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        ["bash", "-euc", f"exec {block.splitlines()[1]}"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert "ready" in process.stdout.readline(), block
    return process


def test_every_block(folder: Path, servers: list[subprocess.Popen[str]]) -> None:
    assert len(SERVERS) == 3
    assert len(COMMANDS) >= 4
    for block in BLOCKS:
        if block in SERVERS:
            servers.append(start(block, folder))
        elif block in COMMANDS:
            said = run(block, folder)
            if "splitvlm ask" in block:
                answers = [line for line in said.splitlines() if line.strip()]
                assert len(answers) == 2
                assert all(answer.strip().isdecimal() for answer in answers), answers
