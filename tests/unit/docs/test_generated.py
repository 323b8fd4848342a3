"""The pages that follow from the code are those that the code makes, and the page of errors has each error."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from splitvlm.errors import SplitvlmError, all_errors

DOCS = Path(__file__).parents[3] / "docs"
ROW = re.compile(r"^\| `([a-z-]+)` \| `(\w+)` \| (\d+) \| (\w+) \| (.+?) \| (.+?) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["configuration.md", "cli.md"])
def test_the_committed_page_is_the_one_that_the_code_makes(generate: ModuleType, page: str) -> None:
    committed = (DOCS / "reference" / page).read_text("utf-8")
    assert committed == generate.pages()[page], "Run `make docs` and commit what it writes."


@pytest.mark.parametrize("page", ["configuration.md", "cli.md"])
def test_every_key_and_option_says_what_it_means(generate: ModuleType, page: str) -> None:
    rows = [line for line in generate.pages()[page].splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert not [row for row in rows if row.endswith("|  |")], "Give it a description (a key) or a help (an option)."


def test_every_error_has_its_row_with_text_and_advice() -> None:
    rows = ROW.findall((DOCS / "reference" / "errors.md").read_text("utf-8"))
    kinds = {
        (kind.code, kind.__name__, str(kind.exit_code), kind.grpc_status) for kind in (SplitvlmError, *all_errors())
    }
    assert {row[:4] for row in rows} == kinds
    assert len(rows) == len(kinds)
    assert all(len(meaning) > 20 and len(advice) > 8 for *_, meaning, advice in rows)
