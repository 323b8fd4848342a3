"""Arguments that are odd, outputs that cannot be written, libraries that are missing: a sentence, before any work is done."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from splitvlm.crypto.identity import Role
from tests.e2e.test_command_line import check
from tests.forked import ForkedLauncher, splitvlm
from tests.samples import PICTURE, tiny_model


@pytest.mark.parametrize(
    "arguments", [("ask", "p.png", b"caf\xe9 ?"), ("draw", b"caf\xe9", "p.png"), ("keys", "show", "--keys", b"k\xe9ys")]
)
def test_an_argument_that_is_no_text(arguments: tuple[str | bytes, ...], tmp_path: Path) -> None:
    command: list[str | bytes] = [sys.executable, "-m", "splitvlm.cli", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    check(done, 2, "\\xe9", "is not text in UTF-8")


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "p.png", "q", "--max-new-tokens", "-1"),
        ("ask", "p.png", "q", "--max-new-tokens", "99999999999"),
        ("demo", "--seed", "-1"),
        ("evaluate", "--seed", "-3"),
        ("leak", "--seed", "-1"),
        ("draw", "road", "p.png", "--seed", "-1"),
        ("plan", "p.json", "--rtt-ms", "nan"),
        ("plan", "p.json", "--slowdown", "inf"),
        ("demo", "--every", "nan"),
        ("link", "--trace", "constant:1mbit", "--upstream", "127.0.0.1:1", "--delay-ms", "nan"),
    ],
)
def test_numbers_out_of_range(arguments: tuple[str, ...]) -> None:
    check(splitvlm(*arguments), 2, "Invalid value for", arguments[-2])


@pytest.mark.parametrize(
    "arguments",
    [
        ("profile", "scenes", "--out", "taken/p.json"),
        ("evaluate", "scenes", "--json", "taken/e.json"),
        ("leak", "scenes", "--plot", "taken/l.png"),
        ("simulate", "s.yaml", "--out", "taken"),
        ("demo", "--out", "taken/out"),
        ("plan", "p.json", "--png", "."),
        ("link", "--trace", "constant:1mbit", "--upstream", "127.0.0.1:1", "--log", "taken/x.csv"),
    ],
)
def test_outputs_that_cannot_be_written_are_named_before_the_work(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """`profile --out nodir/p.json` measured for a minute first."""
    (tmp_path / "taken").write_text("a file")
    check(splitvlm(*arguments, cwd=tmp_path), 2, "folder", arguments[-1].partition("/")[0])


def test_missing_folders_of_outputs_are_made(tmp_path: Path) -> None:
    done = splitvlm("plan", str(Path("examples/profiles/scenes.json").absolute()), "--json", "a/b/p.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a" / "b" / "p.json").read_text())["model"] == "scenes"


def test_a_terminal_of_ascii_only(tmp_path: Path) -> None:
    splitvlm("keys", "init", cwd=tmp_path)
    for arguments in (["keys", "show"], ["plan", str(Path("examples/profiles/scenes.json").absolute()), "--explain"]):
        command = [sys.executable, "-m", "splitvlm.cli", *arguments]
        env = os.environ | {"PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_the_version() -> None:
    from importlib.metadata import version

    assert splitvlm("--version").stdout == f"splitvlm {version('splitvlm')}\n"


@pytest.mark.parametrize(
    ("library", "arguments", "extra"),
    [
        ("torch", ("profile", "scenes"), "model"),
        ("PIL", ("draw", "road", "p.png"), "model"),
        ("matplotlib", ("plan", "PROFILES", "--png", "p.png"), "plots"),
    ],
)
def test_a_missing_library_is_named_with_what_installs_it(
    library: str, arguments: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    profiles = str(Path("examples/profiles/scenes.json").absolute())
    given = ["splitvlm", *(profiles if word == "PROFILES" else word for word in arguments)]
    blocked = (
        "import sys; from importlib.machinery import PathFinder\n"
        "class No:\n"
        "  def find_spec(self, name, path=None, target=None):\n"
        f"    if name.split('.')[0] == '{library}': raise ModuleNotFoundError('no', name=name)\n"
        f"sys.meta_path.insert(0, No()); sys.argv = {given!r}\n"
        "from splitvlm.cli import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    check(done, 2, library, f"pip install 'splitvlm[{extra}]'")


@pytest.mark.parametrize("kind", ["cloud", "edge", "orchestrator", "simulate"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour: red\n", "colour is not a known key"),
        ("logging: {lvel: info}\n", "is not a known key"),
        ("node: [1]\nname: [1]\n", "[1]"),
        ("logging: {}\nlogging: {}\n", ":2: the key 'logging' stands twice"),
        ("seed: .nan\nheartbeat_s: .nan\ndrain_s: .inf\n", "."),
    ],
)
def test_every_kind_of_configuration_is_checked(kind: str, text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    check(splitvlm("config", "check", kind, str(file)), 2, "c.yaml", words)


def test_asking_loads_no_torch() -> None:
    code = "import sys, splitvlm.cli.ask_command; print(sorted({'torch', 'numpy', 'PIL', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


async def test_asking_status_and_nodes_for_programs(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "p.png")
    async with ForkedLauncher(tmp_path) as launcher:
        orchestrator = await launcher.start("orchestrator", {"heartbeat_s": 0.5})
        model = {"name": tiny_model("scenes-like"), "threads": 1}
        alone = {"model": model, "orchestrator": orchestrator.address, "planning": {"fixed_plan": "device"}}
        edge = await launcher.start("edge", alone)
        launcher.identity("app", Role.APP)

        async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            done = await asyncio.to_thread(splitvlm, *arguments, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            return done

        done = await run("ask", "p.png", "What?", "--edge", edge.address, "--max-new-tokens", "4", "-v", "--json")
        told = json.loads(done.stdout)
        assert set(told) == {"answer", "chosen", "report"}
        assert told["answer"] == told["answer"].lstrip()
        assert (told["report"]["plan"], told["report"]["answered_by"]) == ("device/none", "device")
        assert isinstance(told["report"]["bytes_sent"], int)
        assert told["report"]["faults"] == []
        assert "answered by the device" in done.stderr
        status = json.loads((await run("status", "--edge", edge.address, "--json")).stdout)
        assert (status["model"], status["cloud_reachable"]) == (model["name"], False)
        people = (await run("status", "--edge", edge.address)).stdout
        assert "cloud node    none" in people
        nodes = json.loads((await run("nodes", "--orchestrator", orchestrator.address, "--json")).stdout)
        assert [(node["node"], node["role"], node["alive"]) for node in nodes] == [("edge-1", "edge", True)]
