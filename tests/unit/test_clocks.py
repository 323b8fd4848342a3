"""Certificates, logs and the OpenAI API alone know the time of day: a clock that jumps moves no deadline, quota or age."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("splitvlm", "edge_node", "cloud_node", "orchestrator")
TELLS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}
MAY = {
    "edge_node/local/http/reply.py": "when a completion was made, which the OpenAI API says",
    "edge_node/local/http/serving.py": "when the model was loaded, which the OpenAI API says",
    "splitvlm/exported/prompts.py": "chat templates may write today's date, as transformers lets them",
    "edge_node/audit.py": "when an answer was given, for whoever reads the audit log",
    "splitvlm/crypto/lifetime.py": "when a certificate is issued, and whether it is in date",
    "splitvlm/link/command.py": "the date in the log of an emulated link",
}


def asks(path: Path) -> set[str]:
    """The calls in a file that ask for the time of day."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if (owner, node.attr) in TELLS:
                found.add(f"{owner}.{node.attr}")
    return found


def test_who_asks_for_the_time_of_day() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    asking = {str(path.relative_to(ROOT)) for path in files if asks(path)}
    assert asking == set(MAY)


def test_the_search_finds_what_it_seeks(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text("import time, datetime as dt\na = time.time()\nb = dt.datetime.now(dt.UTC)\nc = time.monotonic()\n")
    assert asks(file) == {"time.time", "datetime.now"}
