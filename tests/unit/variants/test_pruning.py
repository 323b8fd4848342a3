"""Pruned towers: what stays is the most important, computes what a masked parent computes, and can be loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from splitvlm.errors import UsageError
from splitvlm.model.narrow import keep_units, set_widths
from splitvlm.model.skeleton import build_skeleton
from splitvlm.variants.importance import Kept, LayerImportance, choose, rank
from splitvlm.variants.masks import largest, two_of_four
from splitvlm.variants.prune import prune
from splitvlm.variants.teacher import load_parent, metrics, tower_tokens
from splitvlm.variants.tower_lesson import copied
from tests import tiny_models


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_parent(str(tiny_models.save("scenes-like", tmp_path_factory.mktemp("tiny"))))[0]


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def layers_of(model: Any) -> Any:
    return model.model.vision_model.encoder.layers


def test_a_pruned_layer_computes_what_its_masked_parent_computes(parent: Any, tiles: torch.Tensor) -> None:
    pruned, masked = copied(parent), copied(parent)
    channels = tuple(range(0, 48, 3))
    keep_units(layers_of(pruned)[1], (1,), channels)
    layer = layers_of(masked)[1]
    layer.self_attn.out_proj.weight.data[:, :16] = 0  # the first head's outputs
    gone = [channel for channel in range(48) if channel not in channels]
    layer.mlp.fc2.weight.data[:, gone] = 0
    torch.testing.assert_close(tower_tokens(pruned, tiles), tower_tokens(masked, tiles), rtol=1e-5, atol=1e-5)
    assert layers_of(parent)[1].self_attn.num_heads == 2, "the parent stays as it was"


def test_refitting_brings_a_pruned_tower_nearer_to_its_parent(parent: Any, tiles: torch.Tensor) -> None:
    kept = [Kept(0, (0, 1), tuple(range(24))), Kept(2, (1,), tuple(range(24)))]
    pruned = prune(parent, kept, tiles)
    plain = copied(parent)
    for entry in kept:
        keep_units(layers_of(plain)[entry.layer], entry.heads, entry.channels)
    plain.model.vision_model.encoder.layers = torch.nn.ModuleList([layers_of(plain)[i] for i in (0, 2)])
    wanted = tower_tokens(parent, tiles)
    errors = [float((tower_tokens(model, tiles) - wanted).square().mean()) for model in (pruned, plain)]
    assert errors[0] < errors[1] / 2


def test_a_dead_head_and_dead_channels_are_the_least_important(parent: Any, tiles: torch.Tensor) -> None:
    model = copied(parent)
    layer = layers_of(model)[1]
    layer.self_attn.out_proj.weight.data[:, 16:] *= 1e-4
    layer.mlp.fc2.weight.data[:, :16] *= 1e-4
    tokens_NVD = tower_tokens(model, tiles)
    ranked = rank(model, layers_of(model), tiles, metrics(tokens_NVD, torch.eye(tokens_NVD.shape[-1]))[0])
    assert ranked[1].heads[1] < 1e-3 * ranked[1].heads[0]
    assert max(ranked[1].channels[:16]) < 1e-3 * min(ranked[1].channels[16:])
    kept = choose(ranked, 0.01)
    assert set(range(16, 48)) <= set(kept[1].channels)


def importance(layer: float, *heads: float) -> LayerImportance:
    return LayerImportance(heads, (1.0,) * 32, layer, head_parameters=100, channel_parameters=10)


def test_choosing_takes_what_costs_least_for_each_parameter() -> None:
    layers = [importance(1e9, 5.0, 900.0), importance(0.001, 900.0, 900.0), importance(1e9, 900.0, 900.0)]
    assert [entry.layer for entry in choose(layers, 0.3)] == [0, 2], "a layer that does nothing goes first"
    kept = choose(layers, 0.4)
    assert len(kept[0].channels) == 16, "then channels, in blocks"
    everything = choose(layers, 0.9)
    assert all(entry.heads and entry.channels for entry in everything), "what stays keeps a head and a block"


def test_a_pruned_configuration_builds_the_tower_that_it_describes(parent: Any, tmp_path: Path) -> None:
    model = copied(parent)
    keep_units(layers_of(model)[0], (0,), tuple(range(32)))
    del layers_of(model)[2]
    set_widths(model)
    (tmp_path / "config.json").write_text(model.config.to_json_string())
    config = AutoConfig.from_pretrained(tmp_path)
    built = build_skeleton(config, torch.float32)
    shapes = {name: p.shape for name, p in model.model.vision_model.named_parameters()}
    assert {name: p.shape for name, p in built.model.vision_model.named_parameters()} == shapes
    config.vision_config.layer_heads = [3, 1]
    with pytest.raises(UsageError, match="2 numbers from 1 to 2"):
        build_skeleton(config, torch.float32)


def test_masks_of_the_baselines_keep_the_largest() -> None:
    weight = torch.tensor([[0.1, -3.0, 2.0, 0.2, 1.0, 1.1, -1.2, 0.0]])
    assert two_of_four(weight).int().tolist() == [[0, 1, 1, 0, 0, 1, 1, 0]]
    assert largest([weight[:, :4], weight[:, 4:]], 0.25)[0].int().tolist() == [[0, 1, 1, 1]]
