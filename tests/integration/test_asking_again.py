"""Another question about a picture: the question alone crosses, the answer is as if the picture had come with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from cloud_node.engine.prefix_cache import PrefixEntry
from cloud_node.settings import CloudLimits
from splitvlm.crypto.identity import Role
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from tests.nodes import Cloud, Device, Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model

FIRST, SECOND = "How many cells are infected?", "Is there a lake?"
OTHER = PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
PLANS = ("image/lossless", "vision:1/lossless", "tokens/lossless")
MOST_BYTES = 300


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


@pytest.mark.parametrize("plan", PLANS)
async def test_the_second_question_sends_the_question_only(camera: Device, model: str, plan: str) -> None:
    expected = reference_tokens(model, [Prompt.about(PICTURE, FIRST), Prompt.about(PICTURE, SECOND)], 16)
    first = await camera.ask(plan, PICTURE, FIRST, prefix_cache=True)
    assert (first.token_ids, first.prefix_cached) == (expected[0], False)
    for _ in range(2):
        second = await camera.ask(plan, PICTURE, SECOND, prefix_cache=True)
        assert (second.token_ids, second.prefix_cached) == (expected[1], True)
        assert second.exchange.bytes_sent < min(MOST_BYTES, first.exchange.bytes_sent)


async def test_another_picture_or_plan_is_sent_whole(camera: Device) -> None:
    await camera.ask("tokens/lossless", PICTURE, FIRST, prefix_cache=True)
    assert not (await camera.ask("tokens/lossless", OTHER, FIRST, prefix_cache=True)).prefix_cached
    assert not (await camera.ask("tokens/int8", PICTURE, FIRST, prefix_cache=True)).prefix_cached
    assert (await camera.ask("tokens/lossless", OTHER, SECOND, prefix_cache=True)).prefix_cached


async def test_an_evicted_prefix_is_sent_once_more_over_the_same_session(camera: Device, cloud: Cloud) -> None:
    first = await camera.ask("tokens/lossless", PICTURE, SECOND, prefix_cache=True)
    cloud.servicer.use(CloudLimits(prefix_cache_bytes=0))
    session = camera.link.sessions.idle[0]
    second = await camera.ask("tokens/lossless", PICTURE, SECOND, prefix_cache=True)
    assert (second.token_ids, second.prefix_cached) == (first.token_ids, False)
    assert camera.link.sessions.idle == [session]
    third = await camera.ask("tokens/lossless", PICTURE, SECOND, prefix_cache=True)
    assert third.exchange.bytes_sent < second.exchange.bytes_sent, "it is not asked for again where nothing is kept"


async def test_no_prefix_is_cached_unasked(camera: Device, cloud: Cloud) -> None:
    await camera.ask("tokens/lossless", PICTURE, FIRST)
    await camera.ask("lm:1/lossless", PICTURE, FIRST, prefix_cache=True)
    assert cloud.worker.runtime.prefix_cache.num_bytes == 0


async def test_no_device_finds_what_another_sent(keys: Keys, model: str, cloud: Cloud, camera: Device) -> None:
    await camera.ask("tokens/lossless", PICTURE, FIRST, prefix_cache=True)
    async with device(model, cloud, keys.identity("edge-2", Role.EDGE)) as other:
        [name] = camera.link.prefixes.names_of([PICTURE])
        assert other.link.prefixes.names_of([PICTURE]) != (name,), "names are made with a key of the device's own"
        other.link.prefixes._naming_key = camera.link.prefixes._naming_key  # even if it knew the key
        known = camera.link.prefixes.find([name])
        assert known is not None
        other.link.prefixes.add(known)
        asked = await other.ask("tokens/lossless", PICTURE, FIRST, prefix_cache=True)
        assert not asked.prefix_cached


async def test_what_is_kept_knows_its_size(camera: Device, cloud: Cloud) -> None:
    await camera.ask("image/lossless", PICTURE, FIRST, prefix_cache=True)
    [entries] = cloud.worker.runtime.prefix_cache._devices.values()
    [(kept, _)] = entries.values()
    assert isinstance(kept, PrefixEntry)
    [image] = kept.images
    assert cloud.worker.runtime.prefix_cache.num_bytes == kept.num_bytes > 3 * image.width * image.height
