"""LoRA adapters of PEFT: both parts of a divided model compute what its own merge computes; misfits are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from splitvlm.domain import TOKENS
from splitvlm.errors import UsageError
from splitvlm.model.loading import load_cloud, load_device, load_whole, read_spec
from tests import tiny_models

peft = pytest.importorskip("peft")
TARGETS = ["q_proj", "fc1", "modality_projection.proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save("scenes-like", tmp_path_factory.mktemp("base"))


def saved_adapter(base: Path, folder: Path, **settings: object) -> Path:
    """An adapter as PEFT saves it, whose B is not zero, as if it were trained."""
    model, _ = load_whole(str(base))
    config = peft.LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS, **settings})
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    model, _ = load_whole(str(base))
    merged = peft.PeftModel.from_pretrained(model, folder).merge_and_unload()
    return dict(merged.named_parameters())


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 1}, "rank_pattern": {"fc1": 3}}]
)
def test_parts_and_whole_are_what_peft_merges(base: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    folder = saved_adapter(base, tmp_path / "adapter", **settings)
    wanted = merged_by_peft(base, folder)
    name = f"{base}+{folder}"
    parts = [load_whole(name)[0]]
    parts += [load_device(name, [TOKENS], packed=False).model, load_cloud(name, [TOKENS], packed=False).model]
    seen = set()
    for part in parts:
        for parameter_name, parameter in part.named_parameters():
            if parameter.device.type != "meta":
                torch.testing.assert_close(parameter, wanted[parameter_name], rtol=1e-5, atol=1e-6)
                seen.add(parameter_name)
    assert seen == wanted.keys()


def test_the_hash_is_of_both(base: Path, tmp_path: Path) -> None:
    first = read_spec(f"{base}+{saved_adapter(base, tmp_path / 'a')}")
    second = read_spec(f"{base}+{saved_adapter(base, tmp_path / 'b', r=1)}")
    plain = read_spec(str(base))
    assert len({spec.weights_hash for spec in (first, second, plain)}) == 3
    assert first.processor_hash == plain.processor_hash
    assert first.parameters == plain.parameters


def refusal(base: Path, folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_spec(f"{base}+{folder}")
    return str(caught.value)


def edit(folder: Path, **settings: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "is of the kind IA3"),
        ({"use_dora": True}, "was trained with use_dora"),
        ({"bias": "all"}, "was trained with bias"),
        ({"modules_to_save": ["lm_head"]}, "was trained with modules_to_save"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    base: Path, tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    folder = saved_adapter(base, tmp_path / "adapter")
    edit(folder, **settings)
    assert said in refusal(base, folder)


def test_another_models_adapter_is_refused_by_the_weight_that_does_not_fit(base: Path, tmp_path: Path) -> None:
    folder = saved_adapter(base, tmp_path / "adapter")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    strange = {name.replace("text_model", "language_model"): tensor for name, tensor in tensors.items()}
    save_file(strange, path)
    assert "language_model.layers.0.mlp.down_proj.weight, which the model does not have" in refusal(base, folder)
    longer = {name: torch.ones(len(t), 99) if name.endswith("lora_A.weight") else t for name, t in tensors.items()}
    save_file(longer, path)
    assert "which has the shape" in refusal(base, folder)
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2, 2)}, path)
    assert "holds base_model.model.lm_head.weight, which is not half of a pair" in refusal(base, folder)


def test_pickles_are_not_read(base: Path, tmp_path: Path) -> None:
    folder = saved_adapter(base, tmp_path / "adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "holds no adapter_model.safetensors" in refusal(base, folder)
