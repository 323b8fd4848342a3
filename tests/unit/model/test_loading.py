"""Loading: only the weights of a part, sizes known before, folders as they are found, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut
from splitvlm.errors import UsageError
from splitvlm.model.loading import load_cloud, load_device, load_whole, read_spec
from splitvlm.model.processors import prompt_inputs
from splitvlm.model.prompt import Prompt
from splitvlm.model.skeleton import parameter_bytes
from tests.tiny_models import FAMILIES, picture, save


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save(kind, tmp_path_factory.mktemp(kind)) for kind in FAMILIES}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_part_holds_its_own_weights_only(folders: dict[str, Path], kind: str) -> None:
    name = str(folders[kind])
    spec = read_spec(name)
    for cut in (IMAGE, Cut.parse("vision:2"), TOKENS, Cut.parse("lm:1"), Cut.parse("lm:3"), DEVICE):
        device = load_device(name, [cut])
        assert parameter_bytes(device.model) == 4 * spec.device_parameters(cut), cut
        assert spec.device_memory_bytes(cut) >= 4 * spec.device_parameters(cut)
        if cut != DEVICE:
            cloud = load_cloud(name, [cut], packed=False)  # a packed head that is tied counts twice
            assert parameter_bytes(cloud.model) == 4 * spec.cloud_parameters(cut), cut
            assert cloud.cuts[0] == cut
            assert cloud.cuts[-1] == Cut.parse("lm:3")
    assert spec.device_parameters(DEVICE) == spec.cloud_parameters(IMAGE) == spec.parameters.total


def test_memory_grows_with_depth_and_context(folders: dict[str, Path]) -> None:
    spec = read_spec(str(folders["scenes-like"]))
    sizes = [spec.device_memory_bytes(cut) for cut in spec.cuts()]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert spec.device_memory_bytes(DEVICE, "bfloat16") < spec.device_memory_bytes(DEVICE)
    assert spec.device_memory_bytes(DEVICE, context_tokens=4096) > spec.device_memory_bytes(DEVICE)
    assert spec.cloud_memory_bytes([TOKENS], requests=9) > spec.cloud_memory_bytes([IMAGE, TOKENS])
    assert spec.cloud_memory_bytes([DEVICE]) == 0


def test_hashes_tell_weights_and_processor_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    first = read_spec(str(folders["idefics3"]))
    copy = save("idefics3", tmp_path / "copy")
    tokenizer = copy / "tokenizer_config.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"model_max_length": 99}))
    changed = read_spec(str(copy))
    assert changed.weights_hash == first.weights_hash
    assert changed.processor_hash != first.processor_hash
    assert read_spec(str(folders["scenes-like"])).weights_hash != first.weights_hash


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("gemma3", "vision_tower.", "vision_tower.vision_model."),
        ("llava-onevision", "vision_tower.", "vision_tower.vision_model."),
    ],
)
def test_checkpoints_with_older_names_load(tmp_path: Path, kind: str, old: str, new: str) -> None:
    folder = save(kind, tmp_path)
    path = folder / "model.safetensors"
    tensors = {name.replace(old, new): tensor for name, tensor in load_file(path).items()}
    path.unlink()
    half = len(tensors) // 2  # in two files, as large checkpoints are
    parts = {"model-00001-of-00002.safetensors": list(tensors)[:half]}
    parts |= {"model-00002-of-00002.safetensors": list(tensors)[half:]}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
    places = {name: file for file, names in parts.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    device = load_device(str(folder), [TOKENS])
    assert parameter_bytes(device.model) == 4 * device.spec.device_parameters(TOKENS)


def test_a_folder_that_names_smolvlms_processor(folders: dict[str, Path], tmp_path: Path) -> None:
    """As the real SmolVLM folders: a processor that holds a video processor, which torchvision would be needed for."""
    folder = save("scenes-like", tmp_path)
    expected = prompt_inputs(load_whole(str(folders["scenes-like"]))[1], Prompt.about(picture(64, 64), "How many?"))
    path = folder / "processor_config.json"
    saved = json.loads(path.read_text())
    images = saved.pop("image_processor") | {"image_processor_type": "SmolVLMImageProcessor"}
    images |= {"processor_class": "SmolVLMProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    path.write_text(json.dumps({"image_seq_len": saved["image_seq_len"], "processor_class": "SmolVLMProcessor"}))
    _, processor = load_whole(str(folder))
    assert type(processor).__name__ == "Idefics3Processor"
    found = prompt_inputs(processor, Prompt.about(picture(64, 64), "How many?"))
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["pixel_values"], expected["pixel_values"])


def test_shapes_give_the_same_weights_to_every_part() -> None:
    """Drawn on the smallest tensors of a shape, because the shapes are large."""
    from splitvlm.model.source_lookup import find_source

    name = "shape:smolvlm-256m"
    spec, source = read_spec(name), find_source(name)
    assert spec.random_weights
    assert round(spec.parameters.total / 1e6) == 256
    from splitvlm.model.skeleton import build_skeleton

    model = build_skeleton(source.config, torch.float32)
    norms = {f"model.text_model.layers.{i}.input_layernorm.weight" for i in range(3)}
    few, more = (dict(source.tensors(model, wanted)) for wanted in (set(list(norms)[:1]), norms))
    assert all(torch.equal(tensor, more[name]) for name, tensor in few.items())
    assert not torch.equal(*list(more.values())[:2])


def test_names_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in [
        ("nothing", "There is no model 'nothing'"),
        ("./nowhere", "There is no model"),
        ("shape:huge", "There is no shape 'huge'. Known shapes: smolvlm-256m"),
        (str(tmp_path / "empty"), "no config.json"),
    ]:
        with pytest.raises(UsageError) as caught:
            read_spec(name)
        assert words in str(caught.value)


def test_a_kind_that_cannot_be_divided(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        UsageError, match=r"'bert', which cannot be divided. Try SmolVLM, Idefics3, LLaVA-1.5, LLaVA-OneVision"
    ):
        read_spec(str(tmp_path))


def test_broken_folders(tmp_path: Path) -> None:
    """Weights that are incomplete are refused by every part, also by one that needs none of those that are missing."""
    folder = save("scenes-like", tmp_path / "lacking")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.text_model.norm.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"incomplete: model.text_model.norm.weight is missing"):
        load_device(str(folder), [IMAGE])
    folder = save("scenes-like", tmp_path / "later")
    load_device(str(folder), [TOKENS])
    (folder / "model.safetensors").write_bytes(b"no tensors at all")  # after its facts were read
    with pytest.raises(UsageError, match="cannot be read"):
        load_device(str(folder), [TOKENS])
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"processor in .* cannot be loaded"):
        load_device(str(folder), [IMAGE])


def test_a_cut_that_the_model_lacks(folders: dict[str, Path]) -> None:
    name = str(folders["scenes-like"])
    with pytest.raises(UsageError, match=r"has no cut lm:9; its language model has 3 layers. Use lm:1 to lm:3."):
        load_cloud(name, [Cut.parse("lm:9")])
    with pytest.raises(UsageError, match=r"has no cut vision:4; its vision tower has 3 layers."):
        load_device(name, [Cut.parse("vision:4")])


def test_wrong_device_and_dtype(folders: dict[str, Path], monkeypatch: Any) -> None:
    name = str(folders["scenes-like"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no device 'cuda'"):
        load_device(name, [TOKENS], device="cuda")
    with pytest.raises(UsageError, match="'int8' is not a dtype"):
        load_device(name, [TOKENS], dtype="int8")
