"""A bundle is found by the hash of the weights, and refused where it is of others."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from splitvlm.bundle import Bundle, open_bundle
from splitvlm.bundle.accuracy import larger_sample
from splitvlm.bundle.figures import ACCURACY_FILE, LEAK_FILE
from splitvlm.bundle.folder import MANIFEST
from splitvlm.codec import calibration_file
from splitvlm.domain import TOKENS, Plan
from splitvlm.errors import UsageError
from splitvlm.files.folders import bundles_folder
from splitvlm.model.loading import read_spec
from splitvlm.tools.bundle_view import show
from tests.tiny_models import save

ROW = {"questions": 5, "drop": 0.25, "kinds": {}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save("scenes-like", tmp_path / "model")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPLITVLM_BUNDLES", str(tmp_path / "bundles"))
    return tmp_path / "bundles"


def written(model: Path, folder: Path | None = None) -> Bundle:
    """A bundle with the accuracy of one plan."""
    bundle = open_bundle(str(model), folder, to_write=True)
    bundle.add(ACCURACY_FILE, {"tokens/int4": ROW}, larger_sample)
    return bundle


def test_a_model_that_nothing_was_learned_about_has_nothing(model: Path, root: Path) -> None:
    bundle = open_bundle(str(model))
    assert (bundle.folders, bundle.accuracy, bundle.leaks, bundle.codec.channels) == ((), {}, {}, {})
    assert not root.exists(), "reading makes no folder"


def test_what_is_written_is_found_by_the_weights_wherever_the_model_lies(
    model: Path, root: Path, tmp_path: Path
) -> None:
    assert written(model).target == root / read_spec(str(model)).weights_hash[:32]
    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert open_bundle(str(copy)).accuracy[Plan(TOKENS, "int4")].mean == 0.25


def test_the_manifest_says_whose_it_is(model: Path) -> None:
    folder = written(model).prepare()
    manifest = json.loads((folder / MANIFEST).read_text())
    spec = read_spec(str(model))
    assert (manifest["model"], manifest["weights_hash"]) == (spec.name, spec.weights_hash)
    assert {"splitvlm", "torch", "transformers"} <= manifest["versions"].keys()


def test_a_device_takes_a_copied_bundle(model: Path, root: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(written(model).prepare(), tmp_path / "copied")
    shutil.rmtree(root)
    assert not open_bundle(str(model)).accuracy
    assert open_bundle(str(model), copied).accuracy[Plan(TOKENS, "int4")].mean == 0.25


def test_a_bundle_of_other_weights_is_refused_by_name(model: Path, root: Path, tmp_path: Path) -> None:
    folder = written(model).prepare()
    other = save("idefics3", tmp_path / "other")
    with pytest.raises(UsageError, match=r"is the bundle of other weights: of .*model .*, not of .*other"):
        open_bundle(str(other), folder)
    shutil.copytree(folder, root / read_spec(str(other)).weights_hash[:32])
    with pytest.raises(UsageError, match="is the bundle of other weights"):
        open_bundle(str(other))


def test_what_is_no_bundle_is_neither_read_nor_written(model: Path, tmp_path: Path) -> None:
    for to_write in (False, True):
        with pytest.raises(UsageError, match=r"model is no bundle: there is no bundle\.json"):
            open_bundle(str(model), model, to_write=to_write)
    with pytest.raises(UsageError, match="is no bundle"):
        open_bundle(str(model), tmp_path / "none")
    folder = written(model).prepare()
    for text in ("{}", "3", '{"format": 2}'):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(UsageError, match="is no manifest of a bundle in format 1"):
            open_bundle(str(model))


def test_a_folder_that_cannot_be_made_is_told_before_the_work(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"Cannot write the bundle .*: Not a directory\. Name another folder"):
        open_bundle(str(model), tmp_path / "file" / "bundle", to_write=True)


def test_without_a_home_folder_a_bundle_is_read_from_a_named_folder_only(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = written(model, tmp_path / "named").prepare()
    for variable in ("SPLITVLM_BUNDLES", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert bundles_folder() is None
    assert not open_bundle(str(model)).accuracy
    assert open_bundle(str(model), named).accuracy
    with pytest.raises(UsageError, match="There is no home folder to keep a bundle in"):
        open_bundle(str(model), to_write=True)


def test_a_write_that_fails_leaves_the_file_as_it_was(model: Path) -> None:
    bundle = written(model)
    path = bundle.file(ACCURACY_FILE)
    assert path is not None
    before = path.read_bytes()
    with pytest.raises(TypeError), bundle.replacing(ACCURACY_FILE) as fresh:
        fresh.write_bytes("not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {MANIFEST, ACCURACY_FILE}


def test_the_package_s_bundle_is_read_after_the_user_s_and_never_written() -> None:
    shipped = open_bundle("scenes")
    (folder,) = shipped.folders
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    bundle = open_bundle("scenes", to_write=True)
    bundle.add(ACCURACY_FILE, {"tokens/int4": ROW | {"questions": 10**6}}, larger_sample)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    again = open_bundle("scenes")
    assert again.accuracy[Plan(TOKENS, "int4")].mean == 0.25
    assert again.accuracy.keys() == shipped.accuracy.keys(), "the others' figures stay"
    assert (again.leaks, again.codec.hash) == (shipped.leaks, shipped.codec.hash)


def test_the_package_s_figures_are_of_its_calibration() -> None:
    """Where only the calibration's form changed, its new hash belongs into both files; else they are measured again."""
    bundle = open_bundle("scenes")
    for name in (ACCURACY_FILE, LEAK_FILE):
        path = bundle.file(name)
        assert path is not None
        assert json.loads(path.read_text())["calibration"] == bundle.calibration_hash
    assert any(plan.level == "klt7" for plan in bundle.accuracy.keys() & bundle.leaks.keys())


def test_old_files_beside_the_weights_are_not_read_and_are_told_once(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (model / "calibration.safetensors").write_bytes(b"of the time before bundles")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not open_bundle(str(model)).codec.channels
    told = [record.getMessage() for record in caplog.records if "calibration.safetensors" in record.getMessage()]
    assert len(told) == 1
    assert "is not read" in told[0]
    assert "bundle show" in told[0]


def test_a_calibration_of_another_model_is_refused(model: Path) -> None:
    calibration = open_bundle("scenes").file(calibration_file.FILE)
    assert calibration is not None
    tensors, bundle = load_file(calibration), open_bundle(str(model), to_write=True)
    with bundle.replacing(calibration_file.FILE) as path:
        save_file(tensors, path)
    with pytest.raises(UsageError, match=r"another model's: \d+ channels at .*, where it has"):
        _ = bundle.codec
    with bundle.replacing(calibration_file.FILE) as path:
        save_file(
            {name.replace("tokens.", "lm:9."): array for name, array in tensors.items() if "tokens." in name}, path
        )
    with pytest.raises(UsageError, match="has no cut lm:9"):
        _ = open_bundle(str(model)).codec
    assert open_bundle("scenes").codec.channels[TOKENS] == 256


def test_show_tells_where_it_lies_and_what_is_in_it(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = show(str(model), None)
    assert nothing["files"] == {}
    folder = written(model).prepare()
    told = show(str(model), None)
    assert told["folder"] == str(folder)
    assert told["files"] == {ACCURACY_FILE: str(folder / ACCURACY_FILE)}
    assert told["accuracy_plans"] == ["tokens/int4"]
    printed = capsys.readouterr().out
    assert str(folder) in printed
    assert "no leak: it is unknown" in printed
