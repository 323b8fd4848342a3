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

from splitvlm import bundle
from splitvlm.bundle import ACCURACY_FILE, LEAK_FILE, codec_of, leaks_of, read_accuracy, read_leaks
from splitvlm.codec import calibration_file
from splitvlm.domain import IMAGE, TOKENS, Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.model.loading import model_file
from splitvlm.planning import profilefiles
from splitvlm.planning.costs import CloudProfile, DeviceProfile
from splitvlm.planning.kinds import AccuracyDrop
from splitvlm.rpc.plans import device_profile_from_wire
from splitvlm.wire.v1 import control_pb2

Reader = Callable[[str], object]
BAD_SHARES = ["NaN", "Infinity", "1e999", "-0.1", "1.01", '"0.5"', "true", "null", "[0.5]"]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files stand beside every model."""
    monkeypatch.setattr(bundle, "model_file", lambda name, file: tmp_path / file)
    return tmp_path


def refused(path: Path, text: str, read: Callable[[], object]) -> None:
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as caught:
        read()
    assert str(path) in caught.value.sentence
    assert caught.value.advice


@pytest.mark.parametrize("share", BAD_SHARES)
def test_leaks_are_shares(beside: Path, share: str) -> None:
    row = f'{{"cut": "tokens", "level": "klt3", "answered": {share}}}'
    refused(beside / LEAK_FILE, f'{{"floor": 0.2, "rows": [{row}]}}', lambda: read_leaks("any"))
    row = '{"cut": "tokens", "level": "klt3", "answered": 0.5}'
    refused(beside / LEAK_FILE, f'{{"floor": {share}, "rows": [{row}]}}', lambda: read_leaks("any"))


@pytest.mark.parametrize(
    "text",
    [
        '{"floor": 1, "rows": [{"cut": "tokens", "level": "klt3", "answered": 1}]}',
        '{"floor": 0.2, "rows": [{"cut": "everything", "level": "klt3", "answered": 1}]}',
        '{"floor": 0.2, "rows": [{"cut": "tokens", "level": "klt3"}]}',
        '{"floor": 0.2, "rows": {"cut": "tokens"}}',
        '{"floor": 0.2, "rows": 3}',
        '{"floor": 0, "rows": [{"cut": "image", "level": "a", "answered": 1}, {"cut": "image", "level": "a", "answered": 0}]}',
        "3",
    ],
)
def test_leaks_of_another_form(beside: Path, text: str) -> None:
    refused(beside / LEAK_FILE, text, lambda: read_leaks("any"))


def test_what_was_not_measured_is_unknown(beside: Path) -> None:
    (beside / LEAK_FILE).write_text('{"floor": 0.2, "rows": []}')
    assert leaks_of([(TOKENS, "klt3")], read_leaks("any")) == {}


@pytest.mark.parametrize("share", BAD_SHARES)
def test_accuracies_are_shares(beside: Path, share: str) -> None:
    text = f'{{"plans": {{"tokens/klt3": {{"drop": {share}}}}}}}'
    refused(beside / ACCURACY_FILE, text, lambda: read_accuracy("any"))


@pytest.mark.parametrize("text", ["{}", "[]", '{"plans": {"tokens/klt3": {}}}', '{"plans": {"all": {"drop": 0}}}'])
def test_accuracies_of_another_form(beside: Path, text: str) -> None:
    refused(beside / ACCURACY_FILE, text, lambda: read_accuracy("any"))


def profiles() -> profilefiles.Profiles:
    coding = (IMAGE, "jpeg90")
    device = DeviceProfile(
        cuts={IMAGE: 0.0, TOKENS: 0.5}, coding={coding: (0.1, 500), (TOKENS, "int8"): (0.2, 900)},
        token_s={}, memory_bytes={IMAGE: 1}, leak={coding: 0.9},
    )  # fmt: skip
    cloud = CloudProfile(cuts={IMAGE: 0.3, TOKENS: 0.2}, coding={coding: 0.01}, token_s={IMAGE: 0.02})
    return profilefiles.Profiles(
        "m", "here", "test", device, cloud, {Plan(*coding): AccuracyDrop(0.02)}, "measured", {Plan(*coding): (4, 5)}
    )


def test_a_profile_file_keeps_what_is_unknown_unknown(tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"
    profilefiles.write(path, profiles())
    back = profilefiles.read(path)
    assert back == profiles()
    assert [line.plan for line in back.lines()] == [Plan(IMAGE, "jpeg90")]  # nobody measured how tokens are decoded
    assert "decode_s" not in json.loads(path.read_text())["plans"]["tokens/int8"]


def changed(keys: tuple[str, ...], value: str) -> str:
    """The text of a sound file with one value replaced by some text."""
    content: Any = {"format": 1, "model": "m", "machine": "here", "source": "test", "accuracy_source": "measured"}
    content |= {
        "device_s": {"image": 0},
        "device_token_s": {},
        "device_memory_bytes": {"image": 1},
        "cloud_s": {"image": 1},
    }
    content |= {
        "cloud_token_s": {"image": 0.1},
        "accuracy_drop": {"image/jpeg90": 0.1},
        "sizes": {"image/jpeg90": [4, 5]},
    }
    row = {"encode_s": 0.1, "payload_bytes": 5, "leak": 0.5, "decode_s": 0.1, "token_bytes": 3}
    content["plans"] = {"image/jpeg90": row}
    holder = content
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = "HERE"
    return json.dumps(content).replace('"HERE"', value)


@pytest.mark.parametrize("value", ["NaN", "-1", '"1"', "true", "null", "[1]", "1e999"])
@pytest.mark.parametrize(
    "keys",
    [
        ("device_s", "image"), ("device_token_s", "lm:1"), ("device_memory_bytes", "image"), ("cloud_s", "image"),
        ("cloud_token_s", "image"), ("accuracy_drop", "image/jpeg90"), ("plans", "image/jpeg90", "encode_s"),
        ("plans", "image/jpeg90", "payload_bytes"), ("plans", "image/jpeg90", "leak"),
        ("plans", "image/jpeg90", "decode_s"), ("plans", "image/jpeg90", "token_bytes"), ("sizes", "image/jpeg90"),
    ],
)  # fmt: skip
def test_figures_of_a_profile_file(tmp_path: Path, keys: tuple[str, ...], value: str) -> None:
    path = tmp_path / "profiles.json"
    if keys[0] == "sizes":
        value = f"[{value}]"
    refused(path, changed(keys, value), lambda: profilefiles.read(path))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("accuracy_drop", "image/jpeg90"), "1.5"),
        (("plans", "image/jpeg90", "leak"), "1.5"),
        (("accuracy_drop", "everything"), "0.1"),
        (("device_s", "everything"), "1"),
        (("accuracy_source",), '"guessed"'),
        (("plans",), "[]"),
        (("format",), "2"),
    ],
)
def test_profile_files_of_another_form(tmp_path: Path, keys: tuple[str, ...], value: str) -> None:
    path = tmp_path / "profiles.json"
    refused(path, changed(keys, value), lambda: profilefiles.read(path))


@pytest.mark.parametrize("leak", [float("nan"), -0.1, 1.5])
def test_a_device_cannot_report_a_leak_that_is_no_share(leak: float) -> None:
    message = control_pb2.DeviceProfile(coding=[control_pb2.CodingCost(cut="image", level="jpeg90", leak=leak)])
    with pytest.raises(UsageError, match="leak"):
        device_profile_from_wire(message)


@pytest.fixture(scope="module")
def learned() -> dict[str, np.ndarray]:
    path = model_file("scenes", calibration_file.FILE)
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


def test_a_calibration_of_another_model_is_refused(tmp_path: Path, learned: dict[str, np.ndarray]) -> None:
    from tests.tiny_models import save

    folder = save("scenes-like", tmp_path / "model")
    save_file(learned, folder / calibration_file.FILE)
    with pytest.raises(UsageError, match=r"another model's: \d+ channels at .*, where it has"):
        codec_of(str(folder))
    few = {name.replace("tokens.", "lm:9."): array for name, array in learned.items() if name.startswith("tokens.")}
    save_file(few, folder / calibration_file.FILE)
    with pytest.raises(UsageError, match="has no cut lm:9"):
        codec_of(str(folder))
    assert codec_of("scenes").channels[Cut.parse("tokens")] == 256
