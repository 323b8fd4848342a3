"""Conversations of several images and turns: split equals unsplit at every cut, alone and behind a cached prefix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Conversation, Cut, CutKind, ImagePart, Message, Speaker, TextPart
from splitvlm.errors import UsageError
from splitvlm.model.boundary import IDS
from splitvlm.model.loading import load_cloud, load_device, load_whole
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import Reference
from splitvlm.model.upper_run import UpperRun
from tests.tiny_models import FAMILIES, picture, save

VISION = Cut.parse("vision:1")
CUTS = (IMAGE, VISION, TOKENS, Cut.parse("lm:1"), DEVICE)
NUM_TOKENS = 8
WIDE, TINY = picture(200, 40, 1), picture(24, 24, 2)

SYSTEM = Message(Speaker.SYSTEM, (TextPart("Be brief."),))
TWO_IMAGES = Conversation.about("Which is larger?", 2)
BETWEEN = Message(Speaker.USER, (TextPart("This"), ImagePart(), TextPart("or that?"), ImagePart()))
PROMPTS = {
    "one image": Prompt.about(WIDE, "How many?"),
    "two images": Prompt(TWO_IMAGES, (WIDE, TINY)),
    "images between text, behind a system message": Prompt(Conversation((SYSTEM, BETWEEN)), (TINY, WIDE)),
    "two turns": Prompt(Conversation.about("How many?").then("Seven.", "And here?", 1), (WIDE, TINY)),
    "text alone": Prompt(Conversation.about("Hello?", 0)),
}


class Model:
    """One tiny model of a family, whole and in its parts."""

    def __init__(self, folder: str) -> None:
        self.reference = Reference(*load_whole(folder))
        self.device: DevicePart = load_device(folder, [DEVICE])
        self.cloud: CloudPart = load_cloud(folder, [IMAGE])

    def divided(self, prompt: Prompt, cut: Cut) -> list[int]:
        if cut == DEVICE:
            return list(self.device.generate(prompt, NUM_TOKENS))
        if cut == IMAGE:
            resized = Prompt(prompt.conversation, tuple(map(self.device.picture, prompt.images)))
            return answer(self.cloud.upper_from_prompt(resized, NUM_TOKENS))
        lower = self.device.lower(prompt, cut)
        run = self.cloud.upper(cut, lower.boundary, NUM_TOKENS)
        token_ids = [run.first()]
        while not run.finished:
            token_ids.append(run.next(lower.step(token_ids[-1]) if cut.kind is CutKind.LM else None))
        return token_ids


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(str(save(request.param, tmp_path_factory.mktemp("conversations"))))


def answer(run: UpperRun) -> list[int]:
    token_ids = [run.first()]
    while not run.finished:
        token_ids.append(run.next(None))
    return token_ids


@pytest.mark.parametrize("asked", PROMPTS)
def test_every_cut_gives_the_tokens_of_generate(model: Model, asked: str) -> None:
    prompt = PROMPTS[asked]
    expected = model.reference.tokens(prompt, NUM_TOKENS)
    assert {str(cut): model.divided(prompt, cut) for cut in CUTS} == {str(cut): expected for cut in CUTS}


@pytest.mark.parametrize("cut", [IMAGE, VISION, TOKENS], ids=str)
@pytest.mark.parametrize("num_images", [0, 1], ids=["no further image", "a further image"])
def test_the_next_turn_goes_on_from_the_last(model: Model, cut: Cut, num_images: int) -> None:
    images = (WIDE, TINY)[: 1 + num_images]
    first = Prompt.about(WIDE, "How many?")
    second = Prompt(first.conversation.then("Seven.", "And here?", num_images), images)
    run = (
        model.cloud.upper_from_prompt(first, NUM_TOKENS)
        if cut == IMAGE
        else model.cloud.upper(cut, model.device.lower(first, cut).boundary, NUM_TOKENS)
    )
    run.first()
    prefix = run.prefix()
    assert prefix is not None
    shared = prefix.num_shared(model.device.prompt_ids(second))
    lower = None if cut == IMAGE else model.device.begin(second, cut, 1)
    if lower is not None and lower.num_cached_image_tokens != prefix.num_image_tokens:
        assert not shared, "an image is read otherwise beside another: nothing of it may be taken"
    if not shared:
        assert num_images, "the images are the same"
        return
    assert shared >= prefix.images_end
    crossing = model.cloud.inputs(second) if lower is None else lower.boundary
    following = model.cloud.prefix_cached(prefix, cut, crossing, NUM_TOKENS)
    assert answer(following) == model.reference.tokens(second, NUM_TOKENS)
    longer = following.prefix()
    assert longer is not None
    assert torch.equal(longer.ids_P, model.device.prompt_ids(second))


def test_nothing_of_a_cached_image_crosses_again(model: Model) -> None:
    second = Prompt(Conversation.about("How many?").then("Seven.", "Sure?"), (WIDE,))
    assert set(model.device.begin(second, TOKENS, 1).boundary) == {IDS}


@pytest.mark.parametrize("in_two_parts", [False, True], ids=["whole", "in two parts"])
def test_text_never_becomes_an_image(model: Model, in_two_parts: bool) -> None:
    tokenizer = model.device.tokenizer
    image = tokenizer.convert_ids_to_tokens(model.device.model.config.image_token_id)
    texts = (image[:3], image[3:]) if in_two_parts else (image,)
    prompt = Prompt(Conversation((Message(Speaker.USER, (*map(TextPart, texts), TextPart("?"))),)))
    for refuses in (model.device.prompt_ids, model.device.check_prompt):
        with pytest.raises(UsageError, match="special token of this model"):
            refuses(prompt)


def test_a_prompt_is_counted_before_a_pixel_is_touched(model: Model) -> None:
    for prompt in PROMPTS.values():
        model.device.check_prompt(prompt)
    endless = Prompt.about(WIDE, "word " * 20_000)
    with pytest.raises(UsageError, match="too long"):
        model.device.check_prompt(endless)


def test_images_and_image_parts_go_together() -> None:
    with pytest.raises(UsageError, match="shows 2 images, but 1 came"):
        Prompt(TWO_IMAGES, (WIDE,))


def test_a_template_that_drops_a_message_is_refused(model: Model, tmp_path: Path) -> None:
    processor = model.device.processor
    original = processor.chat_template
    processor.chat_template = original.replace("{% for message in messages %}", "{% for message in messages[-1:] %}")
    try:
        with pytest.raises(UsageError, match="leaves out a message of the system"):
            model.device.prompt_ids(Prompt(Conversation((SYSTEM, *TWO_IMAGES.messages)), (WIDE, TINY)))
    finally:
        processor.chat_template = original
