"""Links of all pages lead to files and headings that exist, and so do the files that pages and code name by their path."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("benchmarks", "cloud_node", "docs", "edge_node", "examples", "orchestrator", "proto", "splitvlm", "tests")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w\.(?:py|md|proto|yaml|json|png|svg))\b")
_PAGE = re.compile(r"(?<![\w./-])(docs/[\w./-]*\w\.(?:md|png|svg))\b")
_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def _tracked(pattern: str) -> list[Path]:
    """Returns the repository's own files of that pattern: tracked ones, and new ones that are not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:  # an archive without its history
        return [path for path in ROOT.rglob(pattern) if not any(part.startswith(".") for part in path.parts)]
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


PAGES = [page for page in _tracked("*.md") if page.name != "CHANGELOG.md"]
CODE = _tracked("*.py")


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as code hosts make them."""
    text = _BLOCK.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages_and_code() -> None:
    assert len(PAGES) > 20
    assert len(CODE) > 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_resolve(page: Path) -> None:
    text = page.read_text("utf-8")
    for link in _LINK.findall(text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}, whose heading does not exist"
    for path in _PATH.findall(text):
        assert (ROOT / path).exists(), f"{page.name} names {path}, which does not exist"


def test_documents_that_code_and_examples_name_exist() -> None:
    named = {
        (path, name)
        for path in (*CODE, *_tracked("*.yaml"), ROOT / "pyproject.toml", ROOT / "Makefile")
        for name in _PAGE.findall(path.read_text("utf-8"))
    }
    assert named
    missing = sorted(f"{path.relative_to(ROOT)}: {name}" for path, name in named if not (ROOT / name).exists())
    assert not missing
