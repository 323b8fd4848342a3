"""docs/architecture.md names files and what stands in them: they exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "architecture.md").read_text("utf-8")
NAMES = re.findall(r"`([\w/]+\.py)(?:: ([\w.]+))?`", TEXT)


def test_the_page_names_something() -> None:
    assert len(NAMES) > 30


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_what_the_page_names_exists(path: str, name: str) -> None:
    body = ast.parse((ROOT / path).read_text("utf-8")).body
    for part in filter(None, name.split(".")):
        nodes = [node for node in body if getattr(node, "name", None) == part]
        assert nodes, f"{path} has no {name}"
        body = getattr(nodes[0], "body", [])
