"""The bodies that well-known applications send, as their code makes them, work unmodified.

Frigate: frigate/genai/plugins/openai.py. Home Assistant's LLM Vision: custom_components/llmvision/providers.py.
LangChain: langchain_openai/chat_models/base.py.
"""

from __future__ import annotations

from typing import Any

import openai
import pytest

from splitvlm.domain import ImagePart, Speaker, TextPart
from tests.http_node import Script, http_node, image, text

JPEG = "data:image/jpeg;base64,aGVsbG8="


async def test_frigate_describes_an_object() -> None:
    """The prompt comes before the images, `detail` is set, and the openai client sends it with a timeout of its own."""
    content: Any = [text("Analyze the sequence of images."), *[image(JPEG, detail="low")] * 3]
    async with http_node(Script(["A person ", "walks.\n"])) as node:
        client = openai.AsyncOpenAI(api_key="frigate", base_url=node.url)
        assert "scenes" in [model.id async for model in await client.models.list()]
        reply = await client.chat.completions.create(
            model="scenes", messages=[{"role": "user", "content": content}], timeout=60
        )
        await client.close()
    assert str((reply.choices[0].message.content or "").strip()) == "A person walks."
    [question] = node.script.asked
    [message] = question.conversation.messages
    assert message.parts == (TextPart("Analyze the sequence of images."), ImagePart(), ImagePart(), ImagePart())
    assert question.max_new_tokens == 0


async def test_frigate_asks_for_its_context_and_chats_in_a_stream() -> None:
    messages: Any = [
        {"role": "system", "content": "You are an assistant for Frigate."},
        {"role": "user", "content": "Anything at the door?"},
    ]
    async with http_node() as node:
        client = openai.AsyncOpenAI(api_key="frigate", base_url=node.url)
        [model] = (await client.models.list()).data
        assert model.max_model_len == 512  # type: ignore[attr-defined]
        stream = await client.chat.completions.create(
            model="scenes", messages=messages, timeout=60, stream=True, stream_options={"include_usage": True}
        )
        pieces, usage, finish = [], None, None
        async for chunk in stream:
            usage = chunk.usage or usage
            if chunk.choices:
                pieces.append(chunk.choices[0].delta.content or "")
                finish = chunk.choices[0].finish_reason or finish
        await client.close()
    assert ("".join(pieces), finish) == ("two cells", "stop")
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (70, 3)


@pytest.mark.parametrize("tokens", [{"max_completion_tokens": 3_000}, {"max_tokens": 3_000, "stream": False}])
async def test_llm_vision_asks_about_frames_with_its_own_key(tokens: dict[str, Any]) -> None:
    """A tag before each frame, the message after them, a system prompt, remembered images in front; 3,000 tokens by default."""
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": "Your task is to analyze one or more images."},
            {"role": "user", "content": [text("Garden, normal day:"), image(JPEG)]},
            {
                "role": "user",
                "content": [text("Image 1:"), image(JPEG), text("front_door:"), image(JPEG), text("What happens?")],
            },
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        **tokens,
    }
    headers = {"Content-type": "application/json", "Authorization": "Bearer a-key-of-the-user"}
    async with http_node() as node:
        response = await node.post(body, headers=headers)
        greeting = await node.post({"model": "scenes", "messages": [{"role": "user", "content": [text("Hi")]}]})
    assert response.json().get("choices")[0].get("message").get("content") == "two cells"
    assert greeting.status_code == 200
    question = node.script.asked[0]
    assert [message.num_images for message in question.conversation.messages] == [0, 1, 2]
    assert (question.max_new_tokens, question.sampling.temperature, len(question.images)) == (100, 0.5, 3)


async def test_llm_vision_asks_for_a_title_in_two_messages_of_the_user() -> None:
    async with http_node(Script(["Person at door"])) as node:
        body = {
            "model": "scenes",
            "messages": [
                {"role": "user", "content": [text("Provide a short and concise event title.")]},
                {"role": "user", "content": [text("A person stands at the door.")]},
            ],
            "max_completion_tokens": 20,
            "temperature": 0.5,
            "top_p": 0.9,
        }
        assert (await node.post(body)).status_code == 200
    assert [m.speaker for m in node.script.asked[0].conversation.messages] == [Speaker.USER, Speaker.USER]


async def test_langchain_invokes_and_streams() -> None:
    """ChatOpenAI names the model, says `stream` always, and asks for usage in streams; `seed`, `stop` and more are options."""
    messages: Any = [
        {"content": "Be short.", "role": "system"},
        {"content": [{"type": "text", "text": "What is this?"}, image(JPEG)], "role": "user"},
        {"content": "A cell.", "role": "assistant"},
        {"content": "Infected?", "role": "user", "name": "ann"},
    ]
    options: Any = {
        "model": "scenes",
        "messages": messages,
        "temperature": 0.7,
        "seed": 3,
        "stop": ["\n\n"],
        "max_completion_tokens": 64,
        "top_p": 1.0,
        "n": 1,
        "presence_penalty": None,
    }
    async with http_node() as node:
        client = openai.AsyncOpenAI(api_key="langchain", base_url=node.url)
        raw = await client.chat.completions.with_raw_response.create(**options, stream=False)
        reply = raw.parse().model_dump()
        assert reply["choices"][0]["message"]["content"] == "two cells"
        assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] == 9
        stream = await client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
        chunks = [chunk.model_dump() async for chunk in stream]
        await client.close()
    assert "".join(c["choices"][0]["delta"]["content"] or "" for c in chunks if c["choices"]) == "two cells"
    assert chunks[-1]["usage"]["total_tokens"] == 73
    assert chunks[-1]["splitvlm"]["plan"] == "tokens/int4"
    first, second = node.script.asked
    assert (first.sampling, first.stop) == (second.sampling, ("\n\n",))
    assert first.sampling.seed == 3
