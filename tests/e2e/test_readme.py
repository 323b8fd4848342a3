"""Runs the blocks of the README and of the guide as a newcomer would, in a copy of the files that they name.

Commands are this environment's. The README's start anew; the guide's `splitvlm` is a fork of a process that has imported its
libraries (tests/fork_server.py). Left out: blocks that begin with `make` (the Makefile's own verbs, which CI and people run on
a fresh clone), and indented lines, which name files and models of the reader's own.
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
BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))

pytestmark = [
    pytest.mark.timeout(600),  # on a slow machine
    pytest.mark.skipif(not (MODEL_DIR / "model.safetensors").exists(), reason="the embedded model is missing"),
]


FORKED = f"""#!{sys.executable} -S
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.fork_client import main
main()
"""


def environment(folder: Path) -> dict[str, str]:
    """This one's commands, and bundles of its own: what few questions tell of a model is for nobody else."""
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "SPLITVLM_BUNDLES": str(folder / "bundles")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the examples and an activated-by-name environment."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    activate = tmp_path / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("")
    return tmp_path


def fork_commands(folder: Path) -> None:
    """Makes `splitvlm` in this folder a fork."""
    command = folder / "bin" / "splitvlm"
    command.parent.mkdir()
    command.write_text(FORKED)
    command.chmod(0o755)


def run(block: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euc", block],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
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
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert "ready" in process.stdout.readline(), block
    return process


def blocks(page: Path) -> list[str]:
    """Returns the commands of a page, block by block; Python as one command of the shell."""
    found = BLOCK.findall(page.read_text("utf-8"))
    commands = [f"python - <<'END'\n{text}END\n" if language == "python" else text for language, text in found]
    return [command for command in commands if not command.startswith("make")]


def test_every_block_of_the_readme(folder: Path, servers: list[subprocess.Popen[str]]) -> None:
    asked = 0
    for block in blocks(ROOT / "README.md"):
        if block.startswith("# terminal"):
            servers.append(start(block, folder))
            continue
        said = run(block, folder)
        if "splitvlm ask" in block or "vlm.ask" in block:
            answers = [line for line in said.splitlines() if line.strip()]
            assert len(answers) == block.count("splitvlm ask") + block.count("vlm.ask")
            assert all(answer.strip().isdecimal() for answer in answers), answers
            asked += len(answers)
    assert len(servers) == 3
    assert asked == 3


def test_the_guide_has_blocks_to_run() -> None:
    assert sum(len(blocks(page)) for page in GUIDE) >= 8


@pytest.mark.parametrize("page", [page for page in GUIDE if blocks(page)], ids=lambda page: page.stem)
def test_every_block_of_the_guide(page: Path, folder: Path) -> None:
    fork_commands(folder)
    for block in blocks(page):
        run(block, folder)
