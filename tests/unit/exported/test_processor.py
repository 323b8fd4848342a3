"""What a device without torch makes of pictures and prompts is what transformers' processor makes: every pixel, every id."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from splitvlm.domain import IMAGE, Conversation, ImagePart, Message, Speaker, TextPart
from splitvlm.errors import UsageError
from splitvlm.exported.device_file import DEVICE_FILE, DeviceFile, read_device_file
from splitvlm.exported.pictures import grid_of, shrunk, tiles_of
from splitvlm.exported.prompts import Prompts
from splitvlm.model.loading import load_device, read_spec
from splitvlm.variants.device_files import write_device_files
from tests.samples import tiny_model

MODELS = ("scenes", "shape:smolvlm-256m", "scenes-like", "idefics3")
few = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def name_of(model: str) -> str:
    return model if model == "scenes" or model.startswith("shape:") else tiny_model(model)


@cache
def written(model: str) -> tuple[Any, DeviceFile, Prompts]:
    """The model's processor, and what was written down of it."""
    folder = Path(mkdtemp(prefix="splitvlm-device-"))
    assert write_device_files(folder, name_of(model)) == ""
    content = read_device_file(folder)
    return load_device(name_of(model), [IMAGE]).processor, content, Prompts(folder, content)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8))


def by_processor(processor: Any, conversation: Conversation, images: list[Image.Image]) -> Any:
    left = iter(images)
    messages = [
        {
            "role": str(message.speaker),
            "content": [
                {"type": "image", "image": next(left)}
                if isinstance(part, ImagePart)
                else {"type": "text", "text": part.text}
                for part in message.parts
            ],
        }
        for message in conversation.messages
    ]
    return processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="np"
    )


@pytest.mark.parametrize("model", MODELS)
@given(width=st.integers(1, 400), height=st.integers(1, 400))
@example(1, 400)
@example(512, 512)
@few
def test_every_pixel_is_the_processors(model: str, width: int, height: int) -> None:
    processor, content, _ = written(model)
    picture = noise(width, height)
    pixels_NCHW = by_processor(processor, Conversation.about("Is it?"), [picture])["pixel_values"][0]
    assert np.array_equal(tiles_of(picture, content.picture), pixels_NCHW)
    first_CHW = processor.image_processor.resize(
        np.asarray(picture).transpose(2, 0, 1),
        size=processor.image_processor.size,
        resample=processor.image_processor.resample,
    )
    assert np.array_equal(np.asarray(shrunk(picture, content.picture)).transpose(2, 0, 1), first_CHW)


SIZES = st.lists(st.tuples(st.integers(20, 300), st.integers(20, 300)), min_size=0, max_size=3)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)


@pytest.mark.parametrize("model", MODELS)
@given(sizes=SIZES, question=TEXTS, answer=TEXTS, system=st.booleans())
@example([], "How many?", "Two", True)
@example([(30, 30), (300, 20)], "  Which? ", "The\u00a0first", False)
@few
def test_every_id_is_the_processors(
    model: str, sizes: list[tuple[int, int]], question: str, answer: str, system: bool
) -> None:
    processor, content, prompts = written(model)
    first = (Message(Speaker.SYSTEM, (TextPart("Be brief."),)),) if system else ()
    try:
        asked = Conversation((*first, *Conversation.about(question, len(sizes)).messages)).then(answer, "And now?")
        grids = [grid_of(*size, content.picture) for size in sizes]
        ids = prompts.ids(asked, grids)
    except UsageError:
        return
    inputs = by_processor(processor, asked, [noise(*size) for size in sizes])
    assert ids == inputs["input_ids"][0].tolist()
    assert prompts.tokenizer.decode(ids) == processor.tokenizer.decode(ids)


def test_the_facts_of_the_model_come_back() -> None:
    _, content, _ = written("scenes")
    assert content.model_spec() == read_spec("scenes")


@pytest.mark.parametrize("text", ["<image>", "two <end_of_utterance>"])
def test_special_tokens_are_refused(text: str) -> None:
    _, content, prompts = written("scenes")
    with pytest.raises(UsageError, match="special token"):
        prompts.ids(Conversation.about(text), [grid_of(9, 9, content.picture)])


@pytest.mark.parametrize("kind", ["qwen2.5-vl", "llava-onevision", "gemma3"])
def test_other_families_are_told_so(kind: str, tmp_path: Path) -> None:
    assert "SmolVLM and Idefics3 only" in write_device_files(tmp_path, tiny_model(kind))
    assert not (tmp_path / DEVICE_FILE).exists()


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no device\.json"):
        read_device_file(tmp_path)
