"""How a quantised variant is made: observed ranges, outlier channels, sensitivity of layers, export of each family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from splitvlm.domain import TOKENS, Plan
from splitvlm.errors import UsageError
from splitvlm.local_model import LocalModel
from splitvlm.model.loading import load_device
from splitvlm.model.prompt import Prompt
from splitvlm.tools.variant_view import found_in
from splitvlm.variants.export import agreement, stage_module, torch_tokens
from splitvlm.variants.make import make_variant
from splitvlm.variants.observing import Observed, QuantisedLinear, linear_layers, observe, quantised
from splitvlm.variants.sensitivity import kept_layers
from tests.tiny_models import picture, save


def observed(low: float, high: float, channels: int) -> Observed:
    return Observed(low, high, np.ones(channels, np.float32))


def test_ranges_and_outlier_channels_are_those_of_all_samples() -> None:
    module = nn.Sequential(nn.Linear(8, 8))
    states = torch.full((2, 3, 8), 0.5)
    states[0, 1, 2], states[1, 0, 3] = 30.0, -2.0
    found = observe(module, list(states), lambda _: None)["0"]
    assert (found.low, found.high) == (-2.0, 30.0)
    assert found.outliers() == {2: 60.0}


def test_a_quantised_layer_is_within_half_a_step_of_each_factor() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 16)
    states = torch.rand(10, 64) * 4 - 1
    layer.requires_grad_(False)
    tokens = QuantisedLinear(layer, observed(-1, 3, 64))(states)
    step, weight_step = 4 / 255, float(layer.weight.abs().max()) / 127
    bound = 64 * (step / 2 * float(layer.weight.abs().max()) + weight_step / 2 * 3)
    difference = (tokens - layer(states)).abs().max()
    assert 0 < float(difference) < bound


def test_layers_round_only_while_they_are_asked_to() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
    states = torch.randn(4, 8)
    plain = module(states)
    with quantised(module, {"2": observed(-1, 1, 8)}):
        assert not torch.equal(module(states), plain)
        assert isinstance(module[0], nn.Linear)
    assert torch.equal(module(states), plain)
    assert set(linear_layers(module)) == {"0", "2"}


def test_the_most_sensitive_layers_are_kept_as_far_as_they_fit() -> None:
    found = {"a": 1.0, "b": 9.0, "c": 1.1, "d": 5.0, "e": 0.9}
    sizes = {"a": 10, "b": 10, "c": 10, "d": 10, "e": 10}
    assert kept_layers(found, sizes, 50) == ("b", "d")
    assert kept_layers(found, sizes, 10) == ("b",)
    assert kept_layers(found, sizes | {"b": 100}, 50) == ("d",)
    assert kept_layers(found, sizes, 0) == kept_layers({}, sizes, 50) == ()


@pytest.mark.parametrize(("kind", "pixels"), [("scenes-like", (64, 48)), ("idefics3", (90, 40)), ("gemma3", (70, 50))])
def test_a_tower_s_module_gives_the_part_s_visual_tokens(tmp_path: Path, kind: str, pixels: tuple[int, int]) -> None:
    part = load_device(str(save(kind, tmp_path)), [TOKENS], packed=False)
    module, shape = stage_module(part)
    inputs = part.inputs(Prompt.about(picture(*pixels), "What is this?"))
    tiles = part.family.tile_pixels(inputs).numpy()
    assert tiles.shape[1:] == (3, *shape.edge_px)
    wanted = part.lower(Prompt.about(picture(*pixels), "What is this?"), TOKENS).boundary["hidden"]
    assert agreement(torch_tokens(module, tiles), wanted.numpy()).largest < 1e-5


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "llava-onevision"])
def test_a_tower_whose_tokens_follow_from_the_whole_picture_is_refused(tmp_path: Path, kind: str) -> None:
    part = load_device(str(save(kind, tmp_path)), [TOKENS], packed=False)
    with pytest.raises(UsageError, match=r"cannot be exported: a tile's visual tokens follow from the whole picture"):
        stage_module(part)


def test_padded_tiles_are_refused_and_empty_ones_taken_away(tmp_path: Path) -> None:
    part = load_device(str(save("scenes-like", tmp_path)), [TOKENS], packed=False)
    pixels = torch.randn(1, 3, 3, 64, 64)
    pixels[0, 1] = 0
    mask = torch.ones(1, 3, 64, 64, dtype=torch.long)
    mask[0, 1] = 0
    inputs = {"pixel_values": pixels, "pixel_attention_mask": mask}
    assert torch.equal(part.family.tile_pixels(inputs), pixels[0, [0, 2]])
    mask[0, 2, 32:] = 0
    with pytest.raises(UsageError, match="Some pixels of a tile are padding"):
        part.family.tile_pixels(inputs)


def test_the_manifest_says_how_it_was_quantised(tmp_path: Path) -> None:
    model = str(save("scenes-like", tmp_path / "model"))
    variant = make_variant("int8-static", model, tmp_path / "int8", samples=4, options=["judged=1", "kept=0.2"])
    made, stage = variant.manifest.made, variant.manifest.stage
    assert stage is not None
    assert (stage.file, stage.format, stage.precision) == ("tower.onnx", "onnx", "int8")
    assert variant.manifest.cuts == ["tokens", "device"]
    layers = set(made["sensitivity_nats"])
    assert {"tower.encoder.layers.0.mlp.fc1", "connector.modality_projection.proj"} <= layers
    assert set(made["kept_float32"]) <= layers
    assert 0 < made["check"]["rms_error"] < 0.1
    local = LocalModel.load(model, [TOKENS], variants=[variant])
    own, other = (
        local.boundary(Prompt.about(picture(64, 48), "What is this?"), TOKENS, name).tensors["hidden"]
        for name in ("full", "int8-static")
    )
    assert 0 < agreement(other.numpy(), own.numpy()).rms < 0.1
    plan = Plan.parse("tokens/lossless@int8-static")
    assert local.answer(Prompt.about(picture(64, 48), "What is this?"), plan, 2).payload_bytes > 0
    with pytest.raises(UsageError, match="'half' is not a precision"):
        make_variant("onnx", model, tmp_path / "half", options=["precision=half"])


def test_what_is_made_tells_kept_layers_and_outlier_channels() -> None:
    made = {"kept_float32": ["layers.0.mlp.fc2"], "outlier_channels": {"layers.1.mlp.fc1": {"7": 41.5}}}
    assert list(found_in(made)) == [
        "In float32, because the answers depend on them most: layers.0.mlp.fc2.",
        "Outlier channels of the states that enter layers.1.mlp.fc1: 7 (41.5 times the median).",
    ]
    assert list(found_in({})) == []
