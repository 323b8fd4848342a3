"""The parts as the nodes use them: interleaved requests, what crosses, limits, stage times, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.model.boundary import joined
from splitvlm.model.families.idefics3 import Idefics3
from splitvlm.model.loading import load_cloud, load_device, load_whole
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import Reference
from tests.tiny_models import picture, save

LM2 = Cut.parse("lm:2")
ONE, OTHER = (picture(64, 64, 5), "How many?"), (picture(80, 48, 6), "Is there a lake in this picture?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("qwen2.5-vl", tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def device(folder: Path) -> DevicePart:
    return load_device(str(folder), [DEVICE], threads=1)


@pytest.fixture(scope="module")
def cloud(folder: Path) -> CloudPart:
    return load_cloud(str(folder), [IMAGE])


def test_interleaved_requests_do_not_touch_one_another(folder: Path, device: DevicePart, cloud: CloudPart) -> None:
    """Qwen2.5-VL keeps an offset of positions on the model itself: two requests in turn would spoil it."""
    reference = Reference(*load_whole(str(folder)))
    expected = [reference.tokens(Prompt.about(*asked), 12) for asked in (ONE, OTHER)]
    lowers = [device.lower(Prompt.about(*asked), LM2) for asked in (ONE, OTHER)]
    runs = [cloud.upper(LM2, lower.boundary, 12) for lower in lowers]
    found = [[run.first()] for run in runs]
    for _ in range(11):
        for lower, run, tokens in zip(lowers, runs, found, strict=True):
            if not run.finished:
                tokens.append(run.next(lower.step(tokens[-1])))
    assert found == expected


def test_the_memory_of_the_device_s_own_keys_and_values_is_known_before_they_are_made(device: DevicePart) -> None:
    num_new = 5
    begun = device.begin(Prompt.about(*ONE), LM2)
    expected_bytes = begun.cache_bytes(num_new)
    begun.tile(0)
    for _ in range(num_new):
        begun.step(7)
    assert begun._language is not None
    layers = begun._language._cache.layers
    assert expected_bytes == sum(tensor.nbytes for layer in layers for tensor in (layer.keys, layer.values))
    seen = device.begin(Prompt.about(*ONE), TOKENS)
    assert seen.cache_bytes(num_new) == 0, "it runs nothing of the language model"
    whole_bytes = device.cache_bytes(begun.num_prompt_tokens + num_new)
    assert whole_bytes == expected_bytes * device.spec.lm_layers // 2
    assert (
        device.generate(Prompt.about(*ONE), num_new).cache_bytes
        == device.go_on(seen, num_new).cache_bytes
        == whole_bytes
    )


def test_only_what_is_needed_crosses(tmp_path: Path, device: DevicePart) -> None:
    assert sorted(device.lower(Prompt.about(*ONE), Cut.parse("vision:1")).boundary) == ["grid", "hidden", "ids"]
    assert sorted(device.lower(Prompt.about(*ONE), TOKENS).boundary) == ["grid", "hidden", "ids"]
    below = device.lower(Prompt.about(*ONE), LM2)
    assert sorted(below.boundary) == ["grid", "hidden", "types"]
    assert below.boundary["hidden"].shape == (below.num_prompt_tokens, 48)
    assert {name: tensor.shape for name, tensor in below.step(7).items()} == {"hidden": (1, 48)}
    scenes = load_device(str(save("scenes-like", tmp_path)), [LM2])
    assert sorted(scenes.lower(Prompt.about(*ONE), LM2).boundary) == ["hidden"]
    assert sorted(scenes.lower(Prompt.about(*ONE), TOKENS).boundary) == ["hidden", "ids"]


def test_the_prompt_crosses_where_a_rule_of_choice_reads_it(tmp_path: Path) -> None:
    device = load_device(str(save("qwen2.5-vl", tmp_path, repetition_penalty=1.2)), [LM2])
    assert sorted(device.lower(Prompt.about(*ONE), LM2).boundary) == ["grid", "hidden", "ids"]


def test_the_limit_of_tokens(device: DevicePart, cloud: CloudPart) -> None:
    boundary = device.lower(Prompt.about(*ONE), TOKENS).boundary
    run = cloud.upper(TOKENS, boundary, 1)
    assert not run.finished
    run.first()
    assert run.finished
    assert cloud.upper(TOKENS, boundary, 0).finished
    assert len(list(device.generate(Prompt.about(*ONE), 3))) <= 3
    assert list(device.generate(Prompt.about(*ONE), 0)) == []


def test_stage_times_are_told_when_asked_for(device: DevicePart, cloud: CloudPart) -> None:
    told: list[str] = []
    device.on_stage = cloud.on_stage = lambda stage, seconds: told.append(stage)
    run = cloud.upper(Cut.parse("lm:1"), device.lower(Prompt.about(*ONE), Cut.parse("lm:1")).boundary, 2)
    run.first()
    expected = ["prepare", "patches", "vision:1", "vision:2", "vision:3", "connector", "embed", "lm:1", "lm:2", "lm:3"]
    assert told == [*expected, "head"]
    device.on_stage = cloud.on_stage = None
    device.lower(Prompt.about(*ONE), TOKENS)
    assert len(told) == 11


def test_a_part_refuses_what_it_does_not_hold(folder: Path, device: DevicePart) -> None:
    shallow = load_device(str(folder), [Cut.parse("vision:2")])
    with pytest.raises(UsageError, match=r"does not serve the cut tokens. It serves the cuts from image to vision:2."):
        shallow.lower(Prompt.about(*ONE), TOKENS)
    deep = load_cloud(str(folder), [LM2])
    with pytest.raises(UsageError, match=r"It serves the cuts from lm:2 to lm:3."):
        deep.upper_from_prompt(Prompt.about(*ONE), 4)
    with pytest.raises(UsageError, match="has no lower part"):
        device.lower(Prompt.about(*ONE), DEVICE)


def test_questions_that_cannot_be_asked(device: DevicePart) -> None:
    with pytest.raises(UsageError, match="The question is empty"):
        device.lower(Prompt.about(ONE[0], "  "), TOKENS)
    with pytest.raises(UsageError, match=r"The prompt is too long: \d+ tokens, of 2048"):
        device.lower(Prompt.about(ONE[0], "word " * 600), TOKENS)
    with pytest.raises(UsageError, match="does not take this picture"):
        device.lower(Prompt.about(picture(900, 3), "What is it?"), TOKENS)
    with pytest.raises(UsageError, match=r"image_pad.*is a special token"):
        device.lower(Prompt.about(ONE[0], "What is <|image_pad|>?"), TOKENS)


def test_the_picture_that_crosses_is_never_larger(device: DevicePart) -> None:
    assert device.picture(picture(20, 20)).size == (20, 20)
    width, height = device.picture(picture(400, 200)).size
    assert width * height <= 80 * 80
    assert width / height == pytest.approx(2, rel=0.2)


def test_padded_tiles_cross_with_their_mask(tmp_path: Path) -> None:
    """The processor of one picture pads no tile; a model's own inputs may, and the boundary then says so."""
    model: Any = load_whole(str(save("idefics3", tmp_path)))[0]
    torch.manual_seed(0)
    pixels, mask = torch.rand(1, 2, 3, 32, 32), torch.ones(1, 2, 32, 32, dtype=torch.long)
    mask[0, 1, 16:], pixels[0, 1, :, 16:] = 0, 0
    family = Idefics3()
    with torch.inference_mode():
        expected = torch.cat(model.model.get_image_features(pixels, mask).pooler_output)
        for layers in (1, 3):
            boundary = family.lower_vision(model, {"pixel_values": pixels, "pixel_attention_mask": mask}, layers)
            assert boundary["patches"].tolist() == [[[1] * 4] * 4, [[1] * 4] * 2 + [[0] * 4] * 2]
            found = family.connect(model, family.upper_vision(model, boundary, layers), boundary)
            assert torch.equal(found, expected)


TILED = [
    ("idefics3", [True, True]),
    ("llava-onevision", [True, False]),  # rows of its crops are packed into one another
    ("gemma3", [False, False]),  # transformers' processor crops only where the caller asks for it
    ("qwen2.5-vl", [False, False]),
]


@pytest.mark.parametrize(("kind", "tiled"), TILED)
def test_tiles_one_by_one_are_the_picture_at_once(kind: str, tiled: list[bool], tmp_path: Path) -> None:
    folder = str(save(kind, tmp_path))
    device = load_device(folder, [TOKENS], threads=1)
    for cut, in_tiles in zip((Cut.parse("vision:1"), TOKENS), tiled, strict=True):
        run = device.begin(Prompt.about(picture(160, 64, 7), "How many?"), cut)
        inputs = device.inputs(Prompt.about(picture(160, 64, 7), "How many?"))
        with torch.inference_mode():
            whole = device.see(inputs, 1) if cut != TOKENS else device.tile_tokens(device.see(inputs, 3), 3)
        assert (run.num_tiles > 1) == in_tiles, cut
        assert set(run.tile(run.num_tiles - 1)) == ({"hidden"} if in_tiles else set(whole))
        assert set(run.tile(0)) == set(whole)
        for name, tensor in whole.items():
            torch.testing.assert_close(run.boundary[name], tensor, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_not_joined() -> None:
    first, rest = {"hidden": torch.zeros(2, 4), "ids": torch.arange(3)}, {"hidden": torch.zeros(3, 4)}
    assert joined([first, rest, rest])["hidden"].shape == (8, 4)
    assert joined([first]) == first
    for bad in (
        first,
        {},
        {"hidden": torch.zeros(3, 5)},
        {"hidden": torch.zeros(3, 4, dtype=torch.float64)},
        {"ids": first["ids"]},
    ):
        with pytest.raises(ProtocolError, match="do not fit"):
            joined([first, bad])
    with pytest.raises(ProtocolError, match="do not fit"):
        joined([{"ids": first["ids"]}, rest])
