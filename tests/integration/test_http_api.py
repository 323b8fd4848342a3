"""The HTTP API of a whole edge node, with a model and a cloud node behind it, by the openai client."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from edge_node.local.http.access import Access
from edge_node.local.http.app import make_app
from edge_node.local.http.chat import ChatEndpoint
from edge_node.local.http.images import ImageFiles
from edge_node.local.http.server import HttpServer
from edge_node.local.http.serving import offer_of, served_name
from edge_node.settings import EdgeSettings, Http
from splitvlm.settings import ModelChoice
from tests.edge import QUESTION, Node, edge_node
from tests.nodes import until
from tests.samples import PICTURE

PLAN = {"splitvlm": {"plan": "tokens/lossless"}}


@dataclass
class Api:
    node: Node
    client: openai.AsyncOpenAI

    async def ask(self, content: Any, **more: Any) -> Any:
        return await self.client.chat.completions.create(**wish(content, **more))


def wish(content: Any, before: Any = (), **more: Any) -> Any:
    messages = [*before, {"role": "user", "content": content}]
    return {"model": "scenes", "messages": messages, "max_tokens": 8, "extra_body": PLAN} | more


def shown(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()},
    }


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


ASKED = [shown(PICTURE), text(QUESTION)]


@contextlib.asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Api]:
    async with edge_node(folder) as node:
        chat = ChatEndpoint(node.answerer, lambda: offer_of(node.runtime), ImageFiles(Http()), 2**22)
        server = HttpServer(
            make_app(chat, lambda: offer_of(node.runtime), None, 0), Access("127.0.0.1:0"), 1.0, chat.close
        )
        client = openai.AsyncOpenAI(base_url=await server.listen(), api_key="none", max_retries=0)
        try:
            yield Api(node, client)
        finally:
            await client.close()
            await server.drain()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with served(tmp_path) as one:
        yield one


async def test_the_answer_is_that_of_grpc_whole_and_in_a_stream(api: Api) -> None:
    report = await api.node.ask(plan="tokens/lossless", max_new_tokens=8)
    reply = await api.ask(ASKED)
    assert reply.splitvlm["plan"] == "tokens/lossless"
    assert reply.usage.completion_tokens == report.tokens
    assert reply.choices[0].finish_reason == report.finish_reason
    assert reply.usage.prompt_tokens == report.prompt_tokens > reply.usage.prompt_tokens_details.image_tokens > 0
    stream = await api.ask(ASKED, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(filter(None, pieces)) == reply.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == report.tokens


async def test_two_images_two_turns_and_text_alone(api: Api) -> None:
    other = PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    content = [text("Left:"), shown(PICTURE), text("Right:"), shown(other), text("Which has more cells?")]
    first = await api.ask(content)
    assert first.usage.prompt_tokens_details.image_tokens > 0
    answered = {"role": "assistant", "content": first.choices[0].message.content or "left"}
    second = await api.ask("And fewer?", before=[{"role": "user", "content": content}, answered])
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    alone = await api.ask("What is a cell?")
    assert alone.usage.prompt_tokens_details.image_tokens == 0


async def test_a_seed_repeats_and_another_differs(api: Api) -> None:
    texts = [
        (await api.ask(ASKED, temperature=20.0, seed=seed, max_tokens=12)).choices[0].message.content
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_a_stop_string_ends_an_answer_and_is_not_shown(api: Api) -> None:
    whole = (await api.ask(ASKED, temperature=20.0, seed=1, max_tokens=12)).choices[0].message.content
    middle = whole[len(whole) // 2 :][:2]
    cut = await api.ask(ASKED, temperature=20.0, seed=1, max_tokens=12, stop=[middle])
    assert cut.choices[0].message.content == whole[: whole.index(middle)]
    assert cut.choices[0].finish_reason == "stop"


async def test_a_cancelled_stream_frees_the_cloud_s_session(api: Api) -> None:
    [cloud] = api.node.clouds
    stream = await api.ask(ASKED, temperature=20.0, seed=1, max_tokens=100, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await until(lambda: cloud.worker.runtime.admission.working_bytes == 0)
    await until(lambda: api.node.answerer.admission.questions == 0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([shown(PICTURE), text("word " * 1_000)], "too long"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,bm9uZQ=="}}, text("x")], "picture"),
    ],
)
async def test_what_the_model_cannot_read_is_refused_before_it_is_sent(api: Api, content: Any, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        await api.ask(content)
    assert (await api.ask(ASKED)).choices


def test_a_folder_is_served_by_its_own_name() -> None:
    settings = EdgeSettings(model=ModelChoice(name="scenes"))
    assert served_name(settings) == "scenes"
    folder = settings.model_copy(update={"model": settings.model.model_copy(update={"name": "/models/SmolVLM-256M/"})})
    assert served_name(folder) == "SmolVLM-256M"
    named = folder.model_copy(update={"http": Http(model_name="gpt-4o-mini")})
    assert served_name(named) == "gpt-4o-mini"


async def test_logprobs_come_from_the_cloud_and_from_the_device(api: Api) -> None:
    for plan in ("tokens/lossless", "device"):
        wishes = {"extra_body": {"splitvlm": {"plan": plan}}, "logprobs": True, "top_logprobs": 2, "max_tokens": 3}
        [choice] = (await api.ask(ASKED, **wishes)).choices
        assert choice.logprobs.content
        for token in choice.logprobs.content:
            assert token.top_logprobs[0].logprob == token.logprob, "the greedy one is the most likely"
