"""What splitvlm learned of a model lies in files that anybody can edit: each figure is checked when it is read.

A NaN passes every limit, a negative leak is the most private plan of all, and what is absent is unknown and never 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from splitvlm.bundle import open_bundle
from splitvlm.bundle.accuracy import kinds_alone, larger_sample, read_accuracy
from splitvlm.bundle.figures import ACCURACY_FILE, LEAK_FILE, combined
from splitvlm.bundle.leaks import leaks_of, read_leaks, stronger_attack
from splitvlm.codec import calibration_file
from splitvlm.domain import TOKENS, Plan
from splitvlm.errors import UsageError

BAD_SHARES = ["NaN", "Infinity", "1e999", "-0.1", "1.01", '"0.5"', "true", "null", "[0.5]"]


def refused(path: Path, text: str, read: Callable[[], object]) -> None:
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        read()
    assert str(path) in caught.value.sentence
    assert caught.value.advice


def refused_leaks(folder: Path, rows: str) -> None:
    file = folder / LEAK_FILE
    refused(file, f'{{"calibration": "", "plans": {rows}}}', lambda: read_leaks(file, ""))


@pytest.mark.parametrize("share", BAD_SHARES)
def test_leaks_are_shares(tmp_path: Path, share: str) -> None:
    refused_leaks(tmp_path, f'{{"tokens/klt3": {{"floor": 0.2, "answered": {share}}}}}')
    refused_leaks(tmp_path, f'{{"tokens/klt3": {{"floor": {share}, "answered": 0.5}}}}')


@pytest.mark.parametrize(
    "rows",
    [
        '{"tokens/klt3": {"floor": 1, "answered": 1}}',
        '{"everything/klt3": {"floor": 0.2, "answered": 1}}',
        '{"tokens/klt3": {"floor": 0.2}}',
        '{"tokens/klt3": 3}',
        "3",
        '{"tokens/lossless": {"floor": 0, "answered": 1}, "tokens": {"floor": 0, "answered": 0}}',
    ],
)
def test_leaks_of_another_form(tmp_path: Path, rows: str) -> None:
    refused_leaks(tmp_path, rows)


@pytest.mark.parametrize("text", ["3", "[]", "{", "{}", '{"plans": {}}', '{"calibration": ""}'])
@pytest.mark.parametrize("read", [read_leaks, read_accuracy])
def test_files_of_another_form(tmp_path: Path, text: str, read: Callable[[Path, str], object]) -> None:
    file = tmp_path / LEAK_FILE
    refused(file, text, lambda: read(file, ""))


@pytest.mark.parametrize("share", BAD_SHARES)
def test_accuracies_are_shares(tmp_path: Path, share: str) -> None:
    file = tmp_path / ACCURACY_FILE
    text = f'{{"calibration": "", "plans": {{"tokens/klt3": {{"drop": {share}}}}}}}'
    refused(file, text, lambda: read_accuracy(file, ""))


@pytest.mark.parametrize(
    "rows", ['{"tokens/klt3": {}}', '{"all": {"drop": 0}}', '{"tokens": {"kinds": {"a": {"b": 1}}}}']
)
def test_accuracies_of_another_form(tmp_path: Path, rows: str) -> None:
    file = tmp_path / ACCURACY_FILE
    refused(file, f'{{"calibration": "", "plans": {rows}}}', lambda: read_accuracy(file, ""))


def test_what_was_not_measured_is_unknown(tmp_path: Path) -> None:
    file = tmp_path / LEAK_FILE
    file.write_text('{"calibration": "", "plans": {}}')
    for path in (file, None):
        assert leaks_of([Plan(TOKENS, "klt3")], read_leaks(path, "")) == {}


def test_calibrated_plans_count_beside_the_calibration_that_they_were_measured_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / ACCURACY_FILE
    rows = {"tokens/klt3": {"drop": 0.01}, "tokens/int4": {"drop": 0.02}}
    file.write_text(json.dumps({"calibration": "of one", "plans": rows}))
    assert read_accuracy(file, "of one").keys() == {Plan(TOKENS, "klt3"), Plan(TOKENS, "int4")}
    assert not caplog.text
    assert read_accuracy(file, "of another").keys() == {Plan(TOKENS, "int4")}
    assert f"1 calibrated plans in {file} were measured with another calibration" in caplog.text


def accuracy_row(drop: float, **kinds: int) -> dict[str, Any]:
    """A row of as many questions as its kinds have; none is lost."""
    tallies = {kind: {"questions": count, "lost": 0, "gained": 0} for kind, count in kinds.items()}
    return {"questions": sum(kinds.values()), "drop": drop, "kinds": tallies}


def kinds_of(row: Any) -> dict[str, int]:
    return {kind: tally["questions"] for kind, tally in row["kinds"].items()}


def test_a_larger_sample_replaces_a_smaller_one() -> None:
    few, many = accuracy_row(0.1, cars=20), accuracy_row(0.2, cars=10, cells=30)
    for old, new in ((few, many), (many, few)):
        row = larger_sample(old, new)
        assert (row["drop"], row["questions"], kinds_of(row)) == (0.2, 40, {"cars": 20, "cells": 30})
    assert larger_sample(None, few) == few
    assert larger_sample(accuracy_row(0.1, cars=20), accuracy_row(0.3, cars=20))["drop"] == 0.3


def test_a_measurement_of_some_kinds_leaves_means_as_they_are() -> None:
    row = kinds_alone(accuracy_row(0.1, cars=20, cells=5), accuracy_row(0.5, cars=10, obstacle=700))
    assert row is not None
    assert (row["drop"], row["questions"], kinds_of(row)) == (0.1, 25, {"cars": 20, "cells": 5, "obstacle": 700})
    assert kinds_alone(None, accuracy_row(0.5, cars=10)) is None


def test_a_weaker_attack_does_not_replace_a_stronger_one() -> None:
    strong = {"answered": 0.9, "questions": 400, "training": 400}
    for smaller in ("questions", "training"):
        assert stronger_attack(strong, strong | {smaller: 16, "answered": 0.1}) == strong
    assert stronger_attack(strong, strong | {"answered": 0.95})["answered"] == 0.95
    assert stronger_attack(None, strong) == strong


def test_rows_join_those_of_a_file_that_count(tmp_path: Path) -> None:
    file = tmp_path / ACCURACY_FILE
    old = {"tokens/klt3": accuracy_row(0.1, cars=9), "tokens/int4": accuracy_row(0.2, cars=9)}
    file.write_text(combined(None, "before", old, larger_sample))
    file.write_text(combined(file, "after", {"tokens/klt4": accuracy_row(0.3, cars=9)}, larger_sample))
    assert json.loads(file.read_text())["plans"].keys() == {"tokens/int4", "tokens/klt4"}
    assert read_accuracy(file, "after")[Plan(TOKENS, "klt4")].mean == 0.3


def test_no_row_joins_a_file_without_the_sizes_that_decide(tmp_path: Path) -> None:
    row = {"answered": 0.9, "questions": 400, "training": 400}
    file = tmp_path / LEAK_FILE
    file.write_text(combined(None, "", {"tokens/int4": {"answered": 0.9}}, stronger_attack))
    with pytest.raises(UsageError, match="a part of it is missing"):
        combined(file, "", {"tokens/int4": row}, stronger_attack)


@pytest.fixture(scope="module")
def learned() -> dict[str, np.ndarray]:
    path = open_bundle("scenes").file(calibration_file.FILE)
    assert path is not None
    return load_file(path)


def spoilt(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array.reshape(-1)[0] = value
    return array


CHANGES: list[tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = [
    ("mean", "NaN", lambda array: spoilt(array, np.nan)),
    ("analysis", "infinite", lambda array: spoilt(array, np.inf)),
    ("synthesis", "short", lambda array: array[1:]),
    ("shape", "negative", lambda array: np.array([-1], np.int32)),
    ("vocabulary", "empty", lambda array: array[:0]),
    ("vocabulary", "of floats", lambda array: array.astype(np.float32)),
    ("before", "negative", lambda array: spoilt(array, -1)),
    ("klt3.centres", "NaN", lambda array: spoilt(array, np.nan)),
    ("klt3.grid", "empty", lambda array: array[:1]),
    ("klt3.grid", "zero", lambda array: spoilt(array, 0)),
    ("klt3.reach", "large", lambda array: spoilt(array, 255)),
    ("klt3.shifts", "negative", lambda array: spoilt(array, -1)),
    ("klt3.first", "short", lambda array: array[1:]),
    ("klt3.first_bias", "large", lambda array: spoilt(array, 2**30)),
    ("klt1.bands", "zero", lambda array: spoilt(array, 0)),
    ("klt3.restorer_third_bias", "NaN", lambda array: spoilt(array, np.nan)),
    ("klt3.restorer_first", "flat", lambda array: array.reshape(-1)),
]


@pytest.mark.parametrize(("name", "how", "change"), CHANGES, ids=[f"{name}-{how}" for name, how, _ in CHANGES])
def test_a_calibration_is_checked_tensor_by_tensor(
    tmp_path: Path, learned: dict[str, np.ndarray], name: str, how: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = tmp_path / calibration_file.FILE
    save_file(learned | {f"tokens.{name}": change(learned[f"tokens.{name}"])}, path)
    with pytest.raises(UsageError, match=r"calibration\.safetensors is no calibration: tokens\."):
        calibration_file.read(path)


def test_calibrations_of_another_form(tmp_path: Path, learned: dict[str, np.ndarray]) -> None:
    path = tmp_path / calibration_file.FILE
    save_file({name: array for name, array in learned.items() if name != "tokens.klt3.second"}, path)
    with pytest.raises(UsageError, match=r"it lacks 'tokens.klt3.second'"):
        calibration_file.read(path)
    save_file({"everything.mean": np.zeros(3, np.float32)}, path)
    with pytest.raises(UsageError, match="is no calibration: 'everything' is not a cut"):
        calibration_file.read(path)
    for data in (b"", b"no tensors"):
        path.write_bytes(data)
        with pytest.raises(UsageError, match="is no calibration"):
            calibration_file.read(path)
