"""Folders as people have them: quantised, half fetched, with code or adapters. Each that would lie is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitvlm.domain import DEVICE, IMAGE
from splitvlm.errors import UsageError
from splitvlm.model.loading import load_cloud, load_device, load_whole, read_spec
from splitvlm.model.prompt import Prompt
from splitvlm.model.source_lookup import find_source
from tests.tiny_models import FAMILIES, picture, save

Tensors = dict[str, torch.Tensor]
HEAD = "lm_head.weight"
TABLE = "model.text_model.embed_tokens.weight"
LAYER = "model.text_model.layers.0.mlp.up_proj.weight"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("scenes-like", tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def edit(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | settings))


def store(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def shard(folder: Path, **index: Any) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names, half = sorted(tensors), len(tensors) // 2
    for file, part in zip(SHARDS, (names[:half], names[half:]), strict=True):
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    places = {name: SHARDS[names.index(name) >= half] for name in names}
    edit(folder / "model.safetensors.index.json", weight_map=places | index)


def refusal(folder: Path) -> str:
    """What is said, by a node's loading and by transformers' own model alike."""
    with pytest.raises(UsageError) as caught:
        load_device(str(folder), [DEVICE])
    with pytest.raises(UsageError):
        load_whole(str(folder))
    said = str(caught.value)
    assert "\n" not in said
    assert caught.value.advice
    return said


@pytest.mark.parametrize(
    ("file", "settings", "words"),
    [
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, "quantised model (fp8, by config.json)"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantised model (gptq"),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, "quantised model (awq"),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "in 8 bits"),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "in 4 bits"),
        ("config.json", {"compression_config": {"format": "int-quantized"}}, "quantised model (unknown method"),
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "quantised model (gptq, by quantize_config.json)"),
        ("quant_config.json", {"w_bit": 4}, "quantised model (awq, by quant_config.json)"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8"}}, "by hf_quant_config.json"),
    ],
)
def test_quantised_models_are_refused_by_their_settings(
    folder: Path, file: str, settings: dict[str, Any], words: str
) -> None:
    edit(folder / file, **settings)
    assert words in refusal(folder)


def test_settings_of_a_part_count_too(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder / "config.json", text_config=text | {"quantization_config": {"quant_method": "fp8"}})
    assert "quantised model (fp8" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
def test_quantised_weights_without_settings(folder: Path, dtype: torch.dtype) -> None:
    store(folder, lambda tensors: tensors | {LAYER: tensors[LAYER].mul(100).to(dtype)})
    assert f"{LAYER} is stored as " in refusal(folder)


@pytest.mark.parametrize("suffix", ["weight_scale", "SCB", "weight.absmax", "weight_scale_inv"])
def test_scales_are_left_over(folder: Path, suffix: str) -> None:
    name = LAYER.removesuffix("weight") + suffix
    store(folder, lambda tensors: tensors | {name: torch.ones(1)})
    assert f"{name} is left over; scales" in refusal(folder)


def test_many_left_over_tensors_are_counted(folder: Path) -> None:
    store(folder, lambda tensors: tensors | {f"other.{number}": torch.ones(1) for number in range(9)})
    assert "other.0, other.1, other.2 and 6 others are left over." in refusal(folder)


def test_a_resized_vocabulary(folder: Path) -> None:
    store(folder, lambda tensors: tensors | {TABLE: torch.cat([tensors[TABLE], tensors[TABLE][:8]])})
    assert f"{TABLE} has the shape [360, 48] where config.json says [352, 48]" in refusal(folder)


def test_missing_tensors_are_named(folder: Path) -> None:
    store(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name != LAYER})
    assert f"incomplete: {LAYER} is missing" in refusal(folder)


@pytest.mark.parametrize("size", [0, 4, 1000, -8])
def test_files_that_are_cut_off(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "cannot be read" in refusal(folder)


def test_a_file_without_tensors(folder: Path) -> None:
    save_file({}, folder / "model.safetensors", {"format": "pt"})
    assert "are missing" in refusal(folder)


def test_one_parameter_by_two_names(folder: Path) -> None:
    """Tied in config.json: the same twice is one, two different ones would be used apart by transformers."""
    store(folder, lambda tensors: tensors | {HEAD: tensors[TABLE].clone()})
    loaded = load_device(str(folder), [DEVICE])
    assert loaded.model.lm_head.weight is loaded.model.model.text_model.embed_tokens.weight
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    store(other, lambda tensors: tensors | {HEAD: tensors[TABLE] + 1})
    assert "differ, which config.json says are one" in refusal(other)


def test_the_head_alone_is_the_table_too(folder: Path) -> None:
    expected = load_file(folder / "model.safetensors")[TABLE]
    store(folder, lambda tensors: {HEAD if name == TABLE else name: tensor for name, tensor in tensors.items()})
    loaded = load_device(str(folder), [DEVICE])
    assert torch.equal(loaded.model.model.text_model.embed_tokens.weight, expected)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sound_checkpoints_load(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Half precision, shards, buffers that are computed today, files of others beside them."""
    folder = save(kind, tmp_path / "model")
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "model.position_ids": torch.zeros(1, 8)}
    store(folder, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()} | buffers)
    whole, _ = load_whole(str(folder), dtype="bfloat16")
    shard(folder)
    save_file({"x": torch.ones(1)}, folder / "calibration.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    moved = folder.rename(tmp_path / "moved")
    device = load_device(str(moved), [DEVICE], dtype="bfloat16", packed=False)
    loaded = {name: parameter for name, parameter in device.model.named_parameters() if not parameter.is_meta}
    assert len(loaded) > 60
    assert all(torch.equal(whole.get_parameter(name), parameter) for name, parameter in loaded.items())
    load_cloud(str(moved), [IMAGE])
    assert len(list(device.generate(Prompt.about(picture(64, 48), "Is it?"), 2))) >= 1


def test_a_calibration_is_no_weight(folder: Path) -> None:
    before = read_spec(str(folder)).weights_hash
    copy = Path(shutil.copytree(folder, folder.with_name("calibrated")))
    save_file({"x": torch.ones(1)}, copy / "calibration.safetensors")
    assert read_spec(str(copy)).weights_hash == before


@pytest.mark.parametrize(
    "name", ["../elsewhere.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "x.bin"]
)
def test_an_index_that_leaves_the_folder(folder: Path, name: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "elsewhere.safetensors")
    shard(folder, **{LAYER: name})
    assert f"names '{name}', which is no safetensors file of this folder" in refusal(folder)


def test_shards_that_are_not_all_there(folder: Path) -> None:
    shard(folder)
    (folder / SHARDS[1]).rename(folder / "kept")
    assert f"lacks {SHARDS[1]}" in refusal(folder)
    (folder / SHARDS[1]).symlink_to("nowhere")
    assert f"{SHARDS[1]} is a link to a file that is not there" in refusal(folder)
    (folder / SHARDS[1]).unlink()
    (folder / "kept").rename(folder / SHARDS[1])
    (folder / "model.safetensors.index.json").unlink()
    assert "no model.safetensors.index.json that lists them" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [')
    assert "is not JSON" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
    assert "lists no weights" in refusal(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "generation_config.json"])
def test_links_to_nothing_and_pointers(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("../blobs/" + "f" * 64)
    assert f"{name} is a link to a file that is not there" in refusal(folder)
    (folder / name).unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 11879720\n")
    assert f"{name} is a pointer of Git LFS" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "weights.pth"])
def test_weights_of_other_formats(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert "no weights as safetensors; it holds " in refusal(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "is not JSON"), ("", "is not JSON"), ("[]", "no JSON object"), ("[" * 100_000, "is not JSON")],
)
def test_settings_that_are_cut_off(folder: Path, name: str, content: str, words: str) -> None:
    (folder / name).write_text(content)
    said = refusal(folder)
    assert name in said
    assert words in said


@pytest.mark.parametrize(
    "change",
    [{"text_config": "none"}, {"vision_config": {"hidden_size": -4}}, {"text_config": {"num_attention_heads": 0}}],
)
def test_a_config_that_makes_no_model(folder: Path, change: dict[str, Any]) -> None:
    edit(folder / "config.json", **change)
    assert "config.json" in refusal(folder)


def test_adapters_are_never_left_out_in_silence(folder: Path, tmp_path: Path) -> None:
    edit(folder / "adapter_config.json", peft_type="LORA")
    assert "holds an adapter beside the model (adapter_config.json)" in refusal(folder)
    alone = tmp_path / "alone"
    alone.mkdir()
    edit(alone / "adapter_config.json", peft_type="LORA")
    assert "holds an adapter and no model" in refusal(alone)


@pytest.mark.parametrize(
    ("file", "classes"),
    [
        ("config.json", {"AutoConfig": "my_code.Mine", "AutoModelForImageTextToText": "my_code.Mine"}),
        ("processor_config.json", {"AutoProcessor": "my_code.Mine"}),
        ("preprocessor_config.json", {"AutoImageProcessor": "my_code.Mine"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["my_code.Mine", None]}),
    ],
)
def test_code_in_a_folder_never_runs(
    folder: Path, file: str, classes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is answered: transformers asks at the terminal whether to run it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (folder / "my_code.py").write_text(
        f"import pathlib\npathlib.Path({str(folder / 'ran')!r}).touch()\nclass Mine: pass\n"
    )
    edit(folder / file, auto_map=classes)
    assert f"{file} asks for code of the model's own to be run (auto_map: " in refusal(folder)
    assert not (folder / "ran").exists()


def test_code_behind_an_unknown_kind_never_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where it is hidden in a part of the processor's settings."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (folder / "my_code.py").write_text(
        f"import pathlib\npathlib.Path({str(folder / 'ran')!r}).touch()\nclass Mine: pass\n"
    )
    images = {"image_processor_type": "Mine", "auto_map": {"AutoImageProcessor": "my_code.Mine"}}
    edit(folder / "processor_config.json", image_processor=images)
    assert "processor_config.json asks for code" in refusal(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (None, "has no chat template"),
        ("{% for m in messages %}", "makes no prompt of a picture and a question: Unexpected end of template"),
        (
            "{{ raise_exception('Roles must alternate') }}",
            "makes no prompt of a picture and a question: Roles must alternate.",
        ),
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}", "makes no prompt"),
        ("{{ messages[0]['nothing']['here'] }}", "makes no prompt"),
        ("<image>", "leaves out the question"),
    ],
)
def test_templates_are_tried_at_the_start(folder: Path, template: str | None, words: str) -> None:
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    assert words in refusal(folder)


def test_tokenizers_of_another_time_or_model(folder: Path) -> None:
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"pre_tokenizer": {"type": "FromTheFuture"}}))
    assert "cannot be loaded: data did not match any variant" in refusal(folder)
    path.write_text("")
    assert "cannot be loaded" in refusal(folder)
    vocabulary = saved["model"]["vocab"] | {"one more": len(saved["model"]["vocab"])}
    path.write_text(json.dumps(saved | {"model": saved["model"] | {"vocab": vocabulary}}))
    assert "gives ids above the model's vocabulary of 352" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["./mine", "../models/mine", "/models/mine", "~/mine", "~nobody-here/mine", "a/../b", "models/.", "a/b/c", "mine/"],
)
def test_paths_are_never_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name))
    with pytest.raises(UsageError, match=r"no model|home folder"):
        find_source(name)
    assert not asked


def test_a_file_is_no_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(UsageError, match=r"There is no model 'model/model.safetensors': that is a file"):
        find_source("model/model.safetensors")


def test_the_hubs_small_files_are_judged_before_its_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "awq"})
    patterns: list[str] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        patterns.extend(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UsageError, match="quantised model"):
        find_source("owner/name")
    assert "*.json" in patterns
    assert "*.safetensors" not in patterns


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"no folder here, and cannot be fetched .* Check the name and the connection"):
        find_source("nobody-here/no-model")
