"""LoRA tuning: few weights learn, the loss falls, the adapter is merged at load, and padding changes no answer's loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from splitvlm.errors import UsageError
from splitvlm.evaluation.answers import Example
from splitvlm.model.loading import load_whole, read_spec
from splitvlm.variants.answer_lesson import AnswerLesson, asked_of
from splitvlm.variants.tune import Tuning, tune
from tests import tiny_models

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.save("scenes-like", tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    lines = []
    for seed in range(4):
        tiny_models.picture(64, 64, seed).save(folder / f"{seed}.png")
        lines += [
            {"image": f"{seed}.png", "question": "How many?", "answer": str(seed)},
            {"image": f"{seed}.png", "question": "Which of the two is it?", "answer": "left" if seed % 2 else "right"},
        ]
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_an_adapter_learns_and_is_a_model_with_its_base(model: str, data: Path, tmp_path: Path) -> None:
    made = tune(Tuning(model, tmp_path / "adapter", data, data, rank=1, steps=12, rate=0.02))
    assert isinstance(made["share"], float)
    assert 0 < made["share"] < 0.1
    first = tune(Tuning(model, tmp_path / "first", data, data, rank=1, steps=1, rate=0.02))
    assert float(str(made["loss"])) < float(str(first["loss"]))
    name = str(made["model"])
    assert read_spec(name).weights_hash != read_spec(model).weights_hash
    adapted, base = load_whole(name)[0], load_whole(model)[0]
    changed = [n for n, p in adapted.named_parameters() if not torch.equal(p, base.get_parameter(n))]
    assert any("vision_model" in n for n in changed)
    assert any("text_model" in n for n in changed)
    assert not (tmp_path / "adapter.training").exists()


def test_shorter_questions_are_padded_without_changing_their_loss(model: str) -> None:
    network, processor = load_whole(model)
    network.lm_head.requires_grad_(True)
    picture = tiny_models.picture(64, 64)
    short, long = (Example(picture, question, "left") for question in ("Where?", "Where is the second of the two?"))

    def loss_of(*examples: Example) -> float:
        return AnswerLesson(network, [asked_of(processor, examples)], seed=0).loss(0).item()

    assert loss_of(short, long) == pytest.approx((loss_of(short) + loss_of(long)) / 2, rel=1e-5)


def test_a_model_of_ones_own_needs_examples(model: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is nothing that"):
        tune(Tuning(model, tmp_path / "adapter"))


def test_packed_questions_have_the_loss_that_the_model_itself_computes(model: str) -> None:
    network, processor = load_whole(model)
    network.lm_head.requires_grad_(True)
    picture = tiny_models.picture(64, 64)
    asked = asked_of(processor, [Example(picture, question, "left") for question in ("Where?", "And where is it?")])
    assert len(asked[0].questions) == 2
    losses = []
    for prompt, answer in asked[0].questions:
        ids = torch.tensor([[*prompt, *answer]])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        pixels = asked[0].tiles_NCHW[None].float()
        losses.append(network(input_ids=ids, pixel_values=pixels, labels=labels).loss.item())
    ours = AnswerLesson(network, [asked], seed=0).loss(0).item()
    assert ours == pytest.approx(sum(losses) / len(losses), rel=1e-5)
