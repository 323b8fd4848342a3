"""Codec-tuned connectors: coding in training is the codec's own, the gradient knows ranges, and the loss falls."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from splitvlm.codec.codec import Codec
from splitvlm.errors import UsageError
from splitvlm.model.loading import load_whole
from splitvlm.variants.codec_tuned import CodecLesson
from splitvlm.variants.coded_tokens import CodedConnector, coded
from splitvlm.variants.make import make_variant
from splitvlm.variants.teacher import Teacher, load_parent, metrics, tower_tokens
from splitvlm.variants.training import Checkpoint, Schedule, train
from tests import tiny_models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.save("scenes-like", tmp_path_factory.mktemp("tiny")))


def test_coded_tokens_are_the_codecs_and_have_a_gradient() -> None:
    tokens = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    arrived = coded(Codec.from_file(None), "int2", tokens)
    assert 0.05 < float((arrived - tokens).abs().mean().detach()) < 1
    arrived.square().sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().sum() > 0
    twice = coded(Codec.from_file(None), "int2", 2 * tokens.detach())
    torch.testing.assert_close(twice, 2 * arrived.detach(), rtol=0.02, atol=0.02)


def test_the_loss_of_coded_tokens_falls(model: str, tmp_path: Path) -> None:
    network, _ = load_parent(model)
    tiles = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    tokens = tower_tokens(network, tiles).detach()
    needed = torch.randn(tokens.shape[-1], 2, generator=torch.Generator().manual_seed(0))  # two directions
    teacher = Teacher(tiles.half(), tokens.half(), *metrics(tokens, needed @ needed.T)).for_answers()
    lesson = CodecLesson(network, teacher, Codec.from_file(None), "int2", seed=0)
    losses = train(lesson, Schedule(60, 3e-3), Checkpoint(tmp_path / "checkpoint.pt"), "codec")
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_only_the_connector_changes(model: str, tmp_path: Path) -> None:
    variant = make_variant("codec-tuned", model, tmp_path / "v", samples=4, options=["level=int3", "steps=2"])
    assert variant.manifest.cuts == ["tokens"]
    stored, network = load_file(tmp_path / "v" / "model.safetensors"), load_whole(model)[0]
    changed = [name for name, tensor in stored.items() if not torch.equal(tensor, network.get_parameter(name))]
    assert changed == ["model.connector.modality_projection.proj.weight"]
    with pytest.raises(UsageError, match="has no lossy level 'klt3' at tokens"):
        make_variant("codec-tuned", model, tmp_path / "w", options=["level=klt3"])


def test_a_coded_connector_stands_in_for_the_models_own(model: str) -> None:
    network, _ = load_whole(model)
    states = torch.randn(1, 64, 32)
    plain = network.model.connector(states)
    assert (
        float((CodedConnector(network.model.connector, Codec.from_file(None), "int8")(states) - plain).abs().max())
        < 0.1
    )
