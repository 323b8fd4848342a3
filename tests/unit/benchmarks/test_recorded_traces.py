"""Recorded traces are found in the folder that was named, else in the variable's, else in the usual one."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import recorded_traces as module
from splitvlm.errors import UsageError


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Three folders with a trace each, of which `usual` is the usual one and none is named yet."""
    made = {name: tmp_path / name for name in ("named", "variable", "usual")}
    for name, folder in made.items():
        folder.mkdir()
        (folder / f"{name}.up").write_text("1\n")
        (folder / "README.md").write_text("no trace")
    monkeypatch.delenv(module.VARIABLE, raising=False)
    monkeypatch.setattr(module, "USUAL", made["usual"])
    return made


def test_the_option_comes_before_the_variable_and_that_before_the_usual_folder(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = argparse.ArgumentParser()
    module.add_option(parser)
    assert module.recorded_traces(parser.parse_args([]).traces) == [str(folders["usual"] / "usual.up")]
    monkeypatch.setenv(module.VARIABLE, str(folders["variable"]))
    assert module.recorded_traces() == [str(folders["variable"] / "variable.up")]
    named = parser.parse_args(["--traces", str(folders["named"])]).traces
    assert module.recorded_traces(named) == [str(folders["named"] / "named.up")]


def test_a_named_folder_without_traces_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no recorded trace.*SPLITVLM_TRACES.*Mahimahi"):
        module.recorded_traces(tmp_path)


def test_without_recordings_it_says_so_and_where_they_are_to_be_had(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (folders["usual"] / "usual.up").unlink()
    assert module.recorded_traces() == []
    assert "github.com/ravinet/mahimahi" in capsys.readouterr().out
