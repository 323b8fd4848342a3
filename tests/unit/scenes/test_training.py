"""The embedded model's training: packed questions are what the processor makes, batches and runs can be repeated."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from splitvlm.scenes import DOMAINS, ask, draw, folder, losses, network, train
from splitvlm.scenes.batches import IGNORED_LABEL, LABELS, Batches, grid, pack, stack
from splitvlm.scenes.questions import candidates
from splitvlm.scenes.scene import SceneQuestion
from splitvlm.scenes.tokenizer import build_tokenizer
from tests.made_once import made_once


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    place = made_once("scenes-words", lambda place: build_tokenizer().save_pretrained(place))
    return PreTrainedTokenizerFast.from_pretrained(place)


@pytest.fixture(scope="module")
def untrained(words: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved folder with random weights."""
    place = tmp_path_factory.mktemp("untrained")
    folder.write(place, network.fresh(words, 0), words, {"seed": 0})
    return place


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_word_is_one_token(domain: str, words: PreTrainedTokenizerFast) -> None:
    rng = np.random.default_rng(5)
    for seed in range(10_000, 10_040):  # pictures that the word list was not made from
        for question in candidates(draw(domain, seed), rng):
            for text in (question.text, " " + question.answer):
                pieces = words.convert_ids_to_tokens(words.encode(text))
                assert len(pieces) == len(text.split()) + sum(text.count(sign) for sign in ",.?")
                assert words.decode(words.encode(text)) == text


@pytest.mark.parametrize("text", ["zebra crossing", "naïve 漢字 🙂", "a  b\n\tc", "<image", "1234567"])
def test_any_text_survives_the_tokenizer(text: str, words: PreTrainedTokenizerFast) -> None:
    assert words.decode(words.encode(text)) == text


def test_packed_questions_equal_the_processor_s(words: PreTrainedTokenizerFast, untrained: Path) -> None:
    """Each answer token gets the same logits in the pack as by transformers' own way, question by question."""
    scene = draw("road", 3)
    questions = ask(scene, 3, 4)
    processor = AutoProcessor.from_pretrained(untrained)
    model = AutoModelForImageTextToText.from_pretrained(untrained, dtype=torch.float32).eval()
    ids, position_ids, labels, mask = stack([pack(words, questions)], words.pad_token_id)
    pixels = torch.from_numpy(np.array(scene.image))[None]
    with torch.no_grad():
        tokens = model.model.connector(model.model.vision_model(losses.normalised(pixels)).last_hidden_state)
        embedded = model.get_input_embeddings()(ids)
        embedded[:, losses.IMAGE_START : losses.IMAGE_START + network.VISUAL_TOKENS] = tokens
        packed = model.lm_head(
            model.model.text_model(
                inputs_embeds=embedded, attention_mask=mask, position_ids=position_ids
            ).last_hidden_state
        )[labels != IGNORED_LABEL]
        alone = torch.cat([_alone(model, processor, scene.image, question) for question in questions])
    torch.testing.assert_close(packed, alone, atol=2e-4, rtol=1e-4)


def _alone(model: torch.nn.Module, processor: object, image: Image.Image, question: SceneQuestion) -> torch.Tensor:
    """Logits of the answer's tokens and of the end, (tokens, vocabulary)."""
    content = [{"type": "image"}, {"type": "text", "text": question.text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[image], text=f"{prompt} {question.answer}", return_tensors="pt")
    answer = len(processor.tokenizer.encode(f" {question.answer}"))
    return model(**inputs).logits[0, -answer - 1 :]


def test_the_folder_loads_and_answers(untrained: Path) -> None:
    processor = AutoProcessor.from_pretrained(untrained)
    model = AutoModelForImageTextToText.from_pretrained(untrained)
    assert (model.dtype, model.config.model_type) == (torch.float32, "smolvlm")
    stored = load_file(untrained / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert processor.tokenizer.padding_side == "left"
    assert processor.tokenizer.pad_token_id != processor.tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert model.lm_head.weight is model.get_input_embeddings().weight
    content = [{"type": "image"}, {"type": "text", "text": "How many cells are infected?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    for size in ((256, 256), (640, 480), (100, 300)):
        inputs = processor(images=[Image.new("RGB", size)], text=prompt, return_tensors="pt")
        assert inputs["pixel_values"].shape == (1, 1, 3, 256, 256)
        assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == network.VISUAL_TOKENS
        model.generate(**inputs, do_sample=False, max_new_tokens=2)


def test_the_processor_gives_the_pixels_of_training(untrained: Path) -> None:
    scene = draw("aerial", 1)
    inputs = AutoProcessor.from_pretrained(untrained).image_processor(images=[scene.image], return_tensors="pt")
    trained_on = losses.normalised(torch.from_numpy(np.array(scene.image))[None])
    torch.testing.assert_close(inputs["pixel_values"][0], trained_on, atol=1e-5, rtol=0)


def test_a_batch_is_a_function_of_seed_and_step(words: PreTrainedTokenizerFast) -> None:
    first, again = (Batches(words, 3, 2, 10)[4] for _ in range(2))
    other = Batches(words, 4, 2, 10)[4]
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.pixels, other.pixels)


def test_grids_mark_what_stands_where() -> None:
    scene = draw("microscopy", 0)
    marks = grid(scene, 8).reshape(8, 8, len(LABELS))
    for thing in scene.things:
        assert marks[int(thing.y / 32), int(thing.x / 32), LABELS.index(thing.label)] == 1
    assert marks.sum() <= len(scene.things)


@pytest.mark.parametrize("compiling", ["--no-compile", pytest.param("--compile", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_where_it_was(
    compiling: str, tmp_path: Path, words: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling takes more than a minute, and changes neither what is saved nor what is drawn."""
    monkeypatch.setattr(train, "build_tokenizer", lambda: words)
    arguments = ["--out", str(tmp_path / "model"), "--steps", "3", "--batch", "2", "--precision", "fp32", compiling]
    train.run(train.parse(arguments))
    whole = torch.load(tmp_path / "model.training" / train.CHECKPOINT, weights_only=True)
    told = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (told["steps_run"], told["pictures"]) == (3, 6)

    train_step = train.train_step

    def interrupted(state: train.TrainState, *others: object) -> dict[str, float]:
        figures = train_step(state, *others)
        if state.step == 2:
            train.signal.raise_signal(train.signal.SIGINT)
        return figures

    monkeypatch.setattr(train, "train_step", interrupted)
    arguments[1] = str(tmp_path / "again")
    with pytest.raises(SystemExit, match="stopped at step 2"):
        train.run(train.parse(arguments))
    monkeypatch.setattr(train, "train_step", train_step)
    train.run(train.parse([*arguments, "--resume"]))
    resumed = torch.load(tmp_path / "again.training" / train.CHECKPOINT, weights_only=True)
    for weights in ("model", "average"):
        for name, value in whole[weights].items():
            torch.testing.assert_close(resumed[weights][name], value, atol=1e-5, rtol=1e-4)


def test_the_average_of_weights_begins_with_the_starting_weights_and_forgets_early_steps_faster() -> None:
    model = torch.nn.Linear(3, 2)
    average = train.moving_average(model)
    expected = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for step in range(1, 12_000, 997):
        average.n_averaged.fill_(step)
        decay = min(train.AVERAGE_DECAY, step / (step + 10))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(1.0)
                expected[name] = decay * expected[name] + (1 - decay) * parameter
        average.update_parameters(model)
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])
