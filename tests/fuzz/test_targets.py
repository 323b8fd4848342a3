"""A short run of every fuzz target: the corpus, good inputs, and what hypothesis makes of them. `make fuzz` runs long ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@cache
def seeds(name: str) -> list[bytes]:
    return TARGETS[name].seeds()


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_and_good_inputs_pass(name: str) -> None:
    found = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    for data in (*seeds(name), *found, b"", b"\0" * 64, b"\xff" * 64):
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_damaged_inputs_pass(name: str, data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(seeds(name)) | st.binary(max_size=400)))
    for _ in range(data.draw(st.integers(0, 5))):
        place = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from(("set", "cut", "insert", "double"))):
            case "set" if place < len(damaged):
                damaged[place] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[place : place + data.draw(st.integers(0, 40))]
            case "insert":
                damaged[place:place] = data.draw(st.binary(max_size=12))
            case _:
                damaged += damaged[place : place + 64]
    TARGETS[name].run(bytes(damaged))
