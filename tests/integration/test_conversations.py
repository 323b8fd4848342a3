"""Conversations over gRPC and mutual TLS: several images, further turns, and what a further turn sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from splitvlm.crypto.identity import Role
from splitvlm.domain import Conversation
from splitvlm.errors import UsageError
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from splitvlm.model.text import TextStream
from tests.nodes import Cloud, Device, Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model

OTHER = PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
FIRST = Conversation.about("How many cells are infected?")
PLANS = ("image/lossless", "vision:1/lossless", "tokens/lossless")
MOST_BYTES = 300  # of a further turn about images that the cloud node has
NUM_TOKENS = 12


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture(scope="module")
def model() -> str:
    return tiny_model("scenes-like")


@pytest.fixture
async def cloud(model: str, keys: Keys) -> AsyncIterator[Cloud]:
    async with cloud_node(model, keys) as node:
        yield node


@pytest.fixture
async def camera(model: str, keys: Keys, cloud: Cloud) -> AsyncIterator[Device]:
    async with device(model, cloud, keys.identity("edge-1", Role.EDGE)) as node:
        yield node


def text_of(camera: Device, token_ids: Sequence[int]) -> str:
    stream = TextStream(camera.engine.part.tokenizer)
    return "".join(map(stream.push, token_ids)) + stream.finish()


@pytest.mark.parametrize("plan", [*PLANS, "lm:1/lossless", "device"])
async def test_two_images_two_turns_and_text_alone_are_exact(camera: Device, model: str, plan: str) -> None:
    prompts = [
        Prompt(Conversation.about("Which has more cells?", 2), (PICTURE, OTHER)),
        Prompt(FIRST.then("7", "And here?", 1), (PICTURE, OTHER)),
        Prompt(Conversation.about("Hello?", 0)),
    ]
    expected = reference_tokens(model, prompts, NUM_TOKENS)
    reports = [await camera.ask_with(plan, prompt, NUM_TOKENS, prefix_cache=True) for prompt in prompts]
    assert [report.token_ids for report in reports] == expected
    for prompt, report in zip(prompts, reports, strict=True):
        assert report.prompt.tokens == len(camera.engine.part.prompt_ids(prompt))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("new_image", [False, True], ids=["about the same image", "about a further image"])
async def test_a_further_turn_sends_and_runs_what_is_new(
    camera: Device, model: str, plan: str, new_image: bool
) -> None:
    first = await camera.ask_with(plan, Prompt(FIRST, (PICTURE,)), NUM_TOKENS, prefix_cache=True)
    conversation = FIRST.then(text_of(camera, first.token_ids), "And of those, how many are large?", int(new_image))
    turn = Prompt(conversation, (PICTURE, OTHER)[: conversation.num_images])
    second = await camera.ask_with(plan, turn, NUM_TOKENS, prefix_cache=True)
    assert [second.token_ids] == reference_tokens(model, [turn], NUM_TOKENS)
    assert second.prefix_cached
    assert second.prompt.cached_tokens >= first.prompt.image_tokens
    assert second.prompt.image_tokens == first.prompt.image_tokens * conversation.num_images
    if new_image:
        whole = await camera.ask_with(plan, turn, NUM_TOKENS)
        assert second.exchange.bytes_sent < whole.exchange.bytes_sent
    else:
        assert second.exchange.bytes_sent < MOST_BYTES


async def test_a_long_conversation_sends_its_new_turn_only(camera: Device, model: str) -> None:
    conversation, sent = FIRST, list[int]()
    for _ in range(4):
        prompt = Prompt(conversation, (PICTURE,))
        report = await camera.ask_with("tokens/lossless", prompt, NUM_TOKENS, prefix_cache=True)
        assert [report.token_ids] == reference_tokens(model, [prompt], NUM_TOKENS)
        sent.append(report.exchange.bytes_sent)
        conversation = conversation.then(text_of(camera, report.token_ids), "And what is beside the largest of them?")
    assert max(sent[2:]) <= 1.2 * sent[1] < MOST_BYTES


def shaped(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Returns the same bytes in another shape."""
    return Image.frombytes("RGB", (width, height), picture.tobytes())


def with_last_pixel(picture: Image.Image) -> Image.Image:
    changed = picture.copy()
    changed.putpixel((picture.width - 1, picture.height - 1), (1, 2, 3))
    return changed


@pytest.mark.parametrize("plan", PLANS)
async def test_what_is_not_the_same_hits_nothing(camera: Device, model: str, plan: str) -> None:
    """Images of the same bytes in another shape, that differ in the last pixel, in another order, under another level."""
    width, height = PICTURE.size
    others = [shaped(PICTURE, 2 * width, height // 2), with_last_pixel(PICTURE), OTHER]
    await camera.ask_with(plan, Prompt(FIRST, (PICTURE,)), NUM_TOKENS, prefix_cache=True)
    for other in others:
        prompt = Prompt(FIRST, (other,))
        report = await camera.ask_with(plan, prompt, NUM_TOKENS, prefix_cache=True)
        assert not report.prefix_cached
        assert [report.token_ids] == reference_tokens(model, [prompt], NUM_TOKENS)
    two = Conversation.about("Which has more cells?", 2)
    for images in ((PICTURE, OTHER), (OTHER, PICTURE)):
        prompt = Prompt(two, images)
        report = await camera.ask_with(plan, prompt, NUM_TOKENS, prefix_cache=True)
        assert [report.token_ids] == reference_tokens(model, [prompt], NUM_TOKENS)
    level = "webp50" if plan.startswith("image") else "int8"
    another = f"{plan.split('/')[0]}/{level}"
    assert not (await camera.ask_with(another, Prompt(FIRST, (PICTURE,)), prefix_cache=True)).prefix_cached


@pytest.mark.parametrize("plan", [*PLANS, "lm:1/lossless", "device"])
async def test_a_prompt_beyond_the_context_is_refused_before_anything_is_sent(camera: Device, plan: str) -> None:
    prompt = Prompt(FIRST.then("7", "word " * 5_000, 1), (PICTURE, OTHER))
    with pytest.raises(UsageError, match="too long"):
        await camera.ask_with(plan, prompt, NUM_TOKENS)
    assert not camera.link.sessions.idle
