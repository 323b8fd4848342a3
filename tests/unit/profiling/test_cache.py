"""What was measured once: found again while everything that it depends on is the same, measured again else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from splitvlm.profiling import cache
from splitvlm.profiling.cache import cached, discard, path_of

FACTS: dict[str, object] = {"weights": "a", "threads": 1}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPLITVLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def measured(facts: dict[str, object], value: str) -> str:
    return cached("one", facts, lambda: value, str.encode, bytes.decode)


def test_the_same_facts_are_measured_once_and_others_anew() -> None:
    assert [measured(FACTS, value) for value in ("first", "second")] == ["first", "first"]
    assert measured(FACTS | {"threads": 2}, "third") == "third"
    assert measured(FACTS, "fourth") == "first"


def test_another_machine_or_library_measures_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = path_of("one", FACTS)
    monkeypatch.setattr(cache, "processor", lambda: "another")
    other = path_of("one", FACTS)
    monkeypatch.setattr(cache, "_versions", lambda: {"torch": "0"})
    assert len({before, other, path_of("one", FACTS)}) == 3


def test_what_was_discarded_is_measured_again() -> None:
    measured(FACTS, "first")
    discard("one", FACTS)
    discard("one", FACTS)
    assert measured(FACTS, "second") == "second"


def test_a_broken_file_costs_a_measurement_and_is_mended(caplog: pytest.LogCaptureFixture) -> None:
    def parsed(data: bytes) -> int:
        return int(data)

    assert cached("number", FACTS, lambda: 7, lambda made: str(made).encode(), parsed) == 7
    path_of("number", FACTS).write_bytes(b"\xff nonsense")
    assert cached("number", FACTS, lambda: 8, lambda made: str(made).encode(), parsed) == 8
    assert "made again" in caplog.text
    assert cached("number", FACTS, lambda: 9, lambda made: str(made).encode(), parsed) == 8


def test_a_folder_that_cannot_be_written_keeps_nothing_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("a file stands where the folder would")
    with caplog.at_level(logging.WARNING):
        assert [measured(FACTS, value) for value in ("first", "second")] == ["first", "second"]
    assert "nothing is kept" in caplog.text


def test_without_a_home_folder_results_last_as_long_as_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container that runs as any user has neither HOME nor an entry in passwd."""

    for name in ("SPLITVLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as the system's where nobody knows the home
    cache._passing_folder.cache_clear()
    assert [measured(FACTS, value) for value in ("first", "second")] == ["first", "first"]
    assert "SPLITVLM_CACHE names another" in caplog.text
    assert cache.folder().stat().st_mode & 0o077 == 0
    cache._passing_folder().cleanup()
    cache._passing_folder.cache_clear()
