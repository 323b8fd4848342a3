"""A variant is what its manifest says, of the model that it was made from, or it is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitvlm.bundle import open_bundle
from splitvlm.domain import DEVICE, TOKENS, Plan
from splitvlm.errors import UsageError
from splitvlm.model.loading import read_spec
from splitvlm.variants.folder import new_folder, read_variant, read_variants
from splitvlm.variants.make import make_variant

SCENES = read_spec("scenes")


@pytest.fixture
def folder(made_bf16: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_bf16, tmp_path / "bf16"))


def changed_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "variant.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_is_read_as_it_was_made(folder: Path) -> None:
    variant = read_variant(folder, SCENES)
    assert (variant.name, variant.manifest.kind, variant.cuts) == ("bf16", "bf16", (TOKENS, DEVICE))
    assert variant.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert variant.manifest.made["seed"] == 0
    assert not variant.has_own_codec
    bundle = open_bundle("scenes")
    assert variant.codec(bundle) is bundle.codec
    assert variant.accuracy(bundle) == {}, "what was not measured is unknown"


def test_hash_stands_for_manifest_and_files_and_not_for_figures(folder: Path) -> None:
    digest = read_variant(folder, SCENES).hash
    figures = {"calibration": "", "plans": {"tokens/lossless@bf16": {"questions": 9, "drop": 0.5, "kinds": {}}}}
    (folder / "accuracy.json").write_text(json.dumps(figures))
    variant = read_variant(folder, SCENES)
    assert variant.hash == digest
    assert variant.accuracy(open_bundle("scenes"))[Plan.parse("tokens/lossless@bf16")].mean == 0.5
    changed_manifest(folder, lambda content: content["made"].update(seed=1))
    assert read_variant(folder, SCENES).hash != digest


def test_changed_and_missing_files_are_refused_by_name(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UsageError, match=r"bf16 is not as it was made: .*model\.safetensors was changed"):
        read_variant(folder, SCENES)
    assert read_variant(folder, SCENES, with_weights=False).name == "bf16", "a cloud node needs no weights"
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"bf16 lacks .*model\.safetensors"):
        read_variant(folder, SCENES)


def test_another_models_variant_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(
        UsageError, match=r"bf16 in .* was made from another model: from scenes \(weights [0-9a-f]{12}\)"
    ):
        read_variant(folder, read_spec("shape:smolvlm-256m"))


def _without_form(content: dict[str, Any]) -> None:
    content["weights"] = None


def _leading_out(content: dict[str, Any]) -> None:
    content["files"]["../config.json"] = "0" * 64


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(format=2),
        lambda content: content.update(name="full"),
        lambda content: content.update(name="a/b"),
        lambda content: content.update(cuts=[]),
        lambda content: content.update(cuts=["everything"]),
        lambda content: content.update(surprise=1),
        lambda content: content.pop("parent"),
        lambda content: content["files"].pop("model.safetensors"),
        _without_form,
        _leading_out,
    ],
)
def test_another_form_of_manifest_is_refused(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    changed_manifest(folder, change)
    with pytest.raises(UsageError, match=r"variant\.json is no manifest of a variant"):
        read_variant(folder, SCENES)


def test_figures_of_other_plans_are_refused(folder: Path) -> None:
    figures = {"calibration": "", "plans": {"tokens/lossless@int8": {"questions": 9, "drop": 0.5, "kinds": {}}}}
    (folder / "accuracy.json").write_text(json.dumps(figures))
    with pytest.raises(UsageError, match="no plan of the variant bf16"):
        read_variant(folder, SCENES).accuracy(open_bundle("scenes"))


def test_names_differ(folder: Path, made_bf16: Path) -> None:
    with pytest.raises(UsageError, match="are both named bf16"):
        read_variants([folder, made_bf16], SCENES)
    with pytest.raises(UsageError, match="is no variant"):
        read_variants([folder.parent], SCENES)


def test_only_a_variant_is_written_over(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(UsageError, match="is not written over"), new_folder(tmp_path / "mine"):
        pass
    with pytest.raises(RuntimeError), new_folder(folder):
        raise RuntimeError("a maker that fails")
    assert read_variant(folder, SCENES).name == "bf16", "what was there stays until another one is whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bf16", "mine"]


def test_kinds_and_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'int3' is not a kind"):
        make_variant("int3", "scenes", tmp_path / "v")
    with pytest.raises(UsageError, match="bf16 has no option 'share'"):
        make_variant("bf16", "scenes", tmp_path / "v", options=["share=0.3"])
    assert make_variant("bf16", "scenes", tmp_path / "v", name="half").name == "half"
