"""The kinds that train a tower, made of a tiny model with few pictures and steps: folders that hold together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from splitvlm.errors import UsageError
from splitvlm.variants.make import make_variant
from tests import tiny_models

QUICK = ("steps=2", "rate=0.001")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.save("scenes-like", tmp_path_factory.mktemp("tiny")))


def test_a_pruned_tower_is_smaller_and_says_how_it_was_made(model: str, tmp_path: Path) -> None:
    variant = make_variant("pruned", model, tmp_path / "p", samples=4, options=["share=0.5", *QUICK])
    whole = make_variant("bf16", model, tmp_path / "b")
    assert variant.manifest.parameters < 0.8 * whole.manifest.parameters
    made = variant.manifest.made
    assert made["steps"] == 2
    assert len(made["kept"]) <= 3
    assert "--set share=0.5" in made["command"]
    assert not (tmp_path / "p.training").exists(), "the checkpoint goes when the variant is there"


def test_the_baselines_keep_their_zeros_through_training(model: str, tmp_path: Path) -> None:
    make_variant("sparse-2-4", model, tmp_path / "s", samples=4, options=QUICK)
    weight = load_file(tmp_path / "s" / "model.safetensors")["model.vision_model.encoder.layers.1.mlp.fc1.weight"]
    assert ((weight.unflatten(1, (-1, 4)) == 0).sum(-1) >= 2).all()
    variant = make_variant("magnitude", model, tmp_path / "m", samples=4, options=["share=0.25", *QUICK])
    assert variant.manifest.made["zeros"] > 0


def test_a_student_is_narrower_than_a_pruned_tower(model: str, tmp_path: Path) -> None:
    student = make_variant("student-tower", model, tmp_path / "s", samples=4, options=QUICK)
    pruned = make_variant("pruned", model, tmp_path / "p", samples=4, options=QUICK)
    assert student.manifest.parameters < pruned.manifest.parameters


def test_the_same_seed_makes_the_same_tower(model: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_variant("pruned", model, tmp_path / name, name=f"p{name}", samples=4, options=QUICK)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_shares_and_towers_that_cannot_be_are_refused_by_name(model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"A share of 1\.5 cannot be pruned"):
        make_variant("pruned", model, tmp_path / "p", options=["share=1.5"])
    other = str(tiny_models.save("gemma3", tmp_path / "gemma3"))
    with pytest.raises(UsageError, match="not one that can be pruned or taught here"):
        make_variant("pruned", other, tmp_path / "p")
