"""What `make structure` counts of the code's language."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.structure import is_fragment, module_of


@pytest.mark.parametrize(
    ("docstring", "fragment"),
    [
        ("Returns the payload's size in bytes.", False),
        ("Whether a peer may call.", True),
        ("What was measured: seconds.", True),
        ("Of each column.", True),
        ("The same, prepared.", True),
        ("Whoever asks is told.", False),
        ("Offers keys.", False),
        ("The payload's size.", True),
        ("All cuts of a model.", True),
    ],
)
def test_a_docstring_that_begins_as_a_clause_cannot_be_read_alone(docstring: str, fragment: bool) -> None:
    assert is_fragment(docstring, of_module=False) is fragment


def test_a_module_s_docstring_may_be_a_title() -> None:
    assert not is_fragment("The plan table: what a device may choose from.", of_module=True)
    assert is_fragment("What a device may choose from.", of_module=True)


def test_names_that_say_nothing_are_counted_where_they_are_bound() -> None:
    text = "def f(given, wanted):\n    for one in given:\n        found = wanted.place\n    return found\n"
    module = module_of("package.module", Path("module.py"), text)
    assert sorted(module.vague_names) == ["1: given", "2: one", "3: found"]
