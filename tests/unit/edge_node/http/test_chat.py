"""Chat completions over a real port, in front of an answerer that follows a script."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from edge_node.local.http import sending
from splitvlm.domain import JSON_OBJECT, Choices, ImagePart, JsonSchema, Speaker, TextPart
from splitvlm.errors import (
    CapacityError,
    DeadlineExceeded,
    HandshakeRefused,
    PeerUnavailable,
    PrivacyRefused,
    UsageError,
)
from tests.http_node import Script, Served, http_node, image, text, user
from tests.nodes import until

JPEG = "data:image/jpeg;base64,aGVsbG8="
ASK: ChatCompletionUserMessageParam = {"role": "user", "content": "How many?"}


def events(response: httpx2.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_a_body_is_a_text_its_usage_and_what_happened() -> None:
    async with http_node() as node:
        reply = (await node.post(user("How many?", model="scenes"))).json()
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "scenes"
    [choice] = reply["choices"]
    assert (choice["message"]["content"], choice["message"]["role"]) == ("two cells", "assistant")
    assert choice["finish_reason"] == "stop"
    assert reply["usage"] == {
        "prompt_tokens": 70,
        "completion_tokens": 3,
        "total_tokens": 73,
        "prompt_tokens_details": {"cached_tokens": 9, "image_tokens": 64},
    }
    assert (reply["splitvlm"]["plan"], reply["splitvlm"]["reason"]) == ("tokens/int4", "it is a test")
    assert reply["splitvlm"]["times_s"]["first_token"] == 0


async def test_a_stream_is_a_chunk_for_each_piece_and_the_last_says_what_happened() -> None:
    async with http_node(Script(finish_reason="length")) as node:
        response = await node.post(user("How many?", stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    first, second, last = events(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "two "}
    assert second["choices"][0]["delta"] == {"content": "cells"}
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")
    assert last["splitvlm"]["plan"] == "tokens/int4"
    assert "splitvlm" not in second
    assert "usage" not in first
    assert {first["id"], second["id"]} == {last["id"]}


async def test_usage_is_a_last_chunk_of_its_own_where_it_is_asked_for() -> None:
    async with http_node() as node:
        response = await node.post(user("How many?", stream=True, stream_options={"include_usage": True}))
    *others, last = events(response)
    assert [chunk["usage"] for chunk in others] == [None, None, None]
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 73)
    assert last["splitvlm"]["request_id"]


async def test_messages_keep_speakers_order_and_images() -> None:
    async with http_node() as node:
        messages = [
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": [text("First:"), image(JPEG, detail="low"), image(JPEG), text("Same?")]},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Why?"},
        ]
        assert (await node.post({"messages": messages})).status_code == 200
    [question] = node.script.asked
    speakers = [message.speaker for message in question.conversation.messages]
    assert speakers == [Speaker.SYSTEM, Speaker.USER, Speaker.ASSISTANT, Speaker.USER]
    parts = question.conversation.messages[1].parts
    assert parts == (TextPart("First:"), ImagePart(), ImagePart(), TextPart("Same?"))
    assert question.images == (b"hello", b"hello")


async def test_wishes_reach_the_answerer() -> None:
    wishes = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "seed": 11,
        "repetition_penalty": 1.5,
        "stop": ["\n", "END"],
        "max_tokens": 5,
        "max_completion_tokens": 3_000,
        "splitvlm": {"plan": "tokens/klt3"},
        "n": 1,
    }
    async with http_node() as node:
        assert (await node.post(user("How many?", **wishes))).status_code == 200
    [question] = node.script.asked
    sampling = question.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.5, 0.9, 7, 11)
    assert (sampling.repetition_penalty, question.stop) == (1.5, ("\n", "END"))
    assert question.max_new_tokens == 100, "the node's own limit holds"
    assert question.plan == "tokens/klt3"


async def test_a_seed_is_drawn_where_none_is_named_and_greedy_needs_none() -> None:
    async with http_node() as node:
        for temperature in (0, 1, 1):
            await node.post(user("How many?", temperature=temperature))
    greedy, first, second = node.script.asked
    assert greedy.sampling.is_greedy
    assert first.sampling.seed != second.sampling.seed


async def test_logprobs_are_those_of_the_shown_tokens() -> None:
    async with http_node() as node:
        whole = (await node.post(user("How many?", logprobs=True, top_logprobs=1))).json()["choices"][0]
        chunks = events(await node.post(user("How many?", logprobs=True, stream=True)))
        plain = (await node.post(user("How many?"))).json()["choices"][0]
    two, again = whole["logprobs"]["content"]
    assert two == again
    assert (two["token"], two["logprob"], two["bytes"]) == ("two ", -0.5, list(b"two "))
    assert two["top_logprobs"] == [{"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.25, "bytes": [0xE2, 0x82]}]
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [part["content"][0]["token"] for part in told[:-1]] == ["two ", "two "]
    assert (told[0]["content"][0]["top_logprobs"], told[-1]) == ([], None)
    assert plain["logprobs"] is None
    assert [question.sampling.top_logprobs for question in node.script.asked] == [1, 0, None]


async def test_forms_of_answers_are_constraints() -> None:
    schema = {"type": "object", "properties": {"person": {"type": "boolean"}}, "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "alarm", "strict": True, "schema": schema}}
    async with http_node() as node:
        await node.post(user("x", response_format=wanted))
        await node.post(user("x", response_format={"type": "json_object"}))
        reply = (await node.post(user("x", structured_outputs={"choice": ["yes", "no"]}))).json()
    first, second, third = [question.sampling.constraint for question in node.script.asked]
    assert isinstance(first, JsonSchema)
    assert json.loads(first.text) == schema
    assert (second, third) == (JSON_OBJECT, Choices(("yes", "no")))
    assert reply["splitvlm"]["choices"] == {"yes": 0.5, "no": 0.5}


WRONG: list[tuple[Any, int, str]] = [
    ({}, 400, "messages is missing."),
    ({"messages": []}, 400, "messages is a list, but"),
    (user(""), 400, "A message of the user is empty."),
    ({"messages": [{"role": "system", "content": "Hi"}]}, 400, "needs a message of the user"),
    ({"messages": [{"role": "tool", "content": "Hi"}]}, 400, "messages[0].role is 'tool', but"),
    (user({"type": "input_audio"}, text("x")), 400, "messages[0].content[0]"),
    (
        user(text("x"), {"type": "image_url", "image_url": {}}),
        400,
        "messages[0].content[1].image_url.url is missing.",
    ),
    (user("x", model="gpt-4o"), 404, "The model 'gpt-4o' is not served here."),
    (user("x", max_tokens=0), 400, "max_tokens is 0, but"),
    (user("x", max_tokens=10**9), 400, "max_tokens is 1000000000, but"),
    (user("x", max_completion_tokens=True), 400, "max_completion_tokens is True, but"),
    (user("x", temperature=-1), 400, "temperature is -1, but"),
    (user("x", temperature=1e9), 400, "temperature is 1e+09, but"),
    (user("x", top_p=2), 400, "top_p is 2, but"),
    (user("x", seed=-5), 400, "seed is -5, but"),
    (user("x", n=2), 400, "n is 2, but"),
    (user("x", stop=["a"] * 17), 400, "stop is a list, but"),
    (user("x", stop=""), 400, "stop is '', but"),
    (user("x", tools=[{"type": "function"}]), 400, "'tools' is not supported."),
    (user("x", presence_penalty=0.5), 400, "'presence_penalty' is not supported."),
    (user("x", top_logprobs=2), 400, "top_logprobs needs logprobs."),
    (user("x", logprobs=True, top_logprobs=21), 400, "top_logprobs is 21, but"),
    (user("x", response_format={"type": "json_schema"}), 400, "response_format.json_schema is missing."),
    (user("x", structured_outputs={"choice": ["a", "a"]}), 400, "One choice is there twice."),
    (user("x", guided_json={}), 400, "'guided_json' is not supported."),
    (user("x", response_format={"type": "json_objekt"}), 400, "response_format.type is 'json_objekt', but"),
    (user(*[image(JPEG)] * 1_000, text("x")), 400, "1000 images is too long"),
    (user(image("nonsense"), text("x")), 400, "The image 'nonsense' is none of data"),
    (user(image("data:image/png"), text("x")), 400, "it has no comma"),
    (user(image("data:image/png;base64,a*"), text("x")), 400, "is not base64"),
    (user(image("file:///etc/passwd"), text("x")), 400, "its folder is not allowed by name"),
    (user(image("http://169.254.169.254/latest"), text("x")), 400, "its host is not allowed by name"),
    (user(image("http://[::1/x"), text("x")), 400, "cannot be read as a URL"),
    (["a"], 400, "The body is a list."),
]


async def test_what_is_wrong_is_one_sentence_in_the_api_s_own_form() -> None:
    async with http_node() as node:
        for body, status, says in WRONG:
            response = await node.post(body)
            assert response.status_code == status, says
            error = response.json()["error"]
            assert says in error["message"]
            assert "\n" not in error["message"]
            assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    assert node.script.asked == []


async def test_what_is_no_json_is_refused() -> None:
    async with http_node() as node:
        for body in (b"", b"{", b"\xff\xfe", b'{"temperature": NaN}', b"[" * 10_000, b'{"a": "\\ud800"}'):
            response = await node.http.post(
                f"{node.url}/chat/completions", content=body, headers={"content-type": "application/json"}
            )
            assert response.status_code == 400
            assert "The body is not JSON" in response.json()["error"]["message"]


async def test_fields_that_change_nothing_or_are_unknown_are_ignored() -> None:
    ignored = {"user": "me", "metadata": {"a": "b"}, "store": True, "reasoning_effort": "low", "whatever": [1]}
    neutral = {"tools": [], "tool_choice": "auto", "logit_bias": None, "presence_penalty": 0.0, "logprobs": False}
    async with http_node() as node:
        response = await node.post(user("x", **ignored, **neutral, response_format={"type": "text"}))
    assert response.status_code == 200


async def test_what_fails_before_the_first_piece_has_its_status() -> None:
    failures: list[tuple[Exception, int]] = [
        (UsageError("no"), 400),
        (PrivacyRefused("no"), 403),
        (CapacityError("full", retry_after_s=1.5), 429),
        (HandshakeRefused("no"), 502),
        (PeerUnavailable("no"), 503),
        (DeadlineExceeded("no"), 504),
        (RuntimeError("secret"), 500),
    ]
    async with http_node(Script([])) as node:
        for error, status in failures:
            node.script.error = error
            for stream in (False, True):
                response = await node.post(user("x", stream=stream))
                assert response.status_code == status
                assert "secret" not in response.text
                assert response.headers.get("retry-after") == ("2" if status == 429 else None)


async def test_what_fails_in_a_stream_is_told_in_it_and_the_client_raises() -> None:
    async with http_node(Script(["two "], PeerUnavailable("The cloud node went."))) as node:
        client = openai.AsyncOpenAI(base_url=node.url, api_key="none", max_retries=0)
        stream = await client.chat.completions.create(model="scenes", messages=[ASK], stream=True)
        with pytest.raises(openai.APIError, match="The cloud node went"):
            async for _ in stream:
                pass
        await client.close()


async def test_a_client_that_goes_away_ends_the_answer() -> None:
    async with http_node(Script(endless=True)) as node:
        async with node.http.stream("POST", f"{node.url}/chat/completions", json=user("x", stream=True)) as response:
            async for _ in response.aiter_bytes():
                break
        await until(lambda: node.script.closed == 1 and node.chat.budget.held_bytes == 0)
        asking = asyncio.create_task(node.post(user("x")))
        await until(lambda: node.script.running == 1)
        asking.cancel()
        await until(lambda: node.script.closed == 2 and node.chat.budget.held_bytes == 0)


async def test_a_client_that_stops_reading_ends_its_answer_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "WRITE_TIMEOUT_S", 0.2)
    async with http_node(Script(["word " * 2_000] * 10_000)) as node:
        port = int(node.url.rpartition(":")[2].partition("/")[0])
        _, writer = await _deaf(port, json.dumps(user("x", stream=True)).encode())
        await until(lambda: node.script.closed == 1 and node.chat.budget.held_bytes == 0)
        node.script.pieces = ["two"]
        assert (await node.post(user("x"))).status_code == 200
        writer.transport.abort()


async def _deaf(port: int, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Sends a request and reads nothing of the reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines.append(f"Content-Length: {len(body)}")
    writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode() + body)
    await writer.drain()
    return reader, writer


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    async with http_node(max_body_bytes=10_000) as node:
        for content in (b" " * 100_000_000, _chunks()):
            response = await node.http.post(
                f"{node.url}/chat/completions", content=content, headers={"content-type": "application/json"}
            )
            assert response.status_code == 413
            assert "larger than 10000 bytes" in response.json()["error"]["message"]
        assert (await node.post(user("x"))).status_code == 200
        assert node.chat.budget.held_bytes == 0


async def _chunks() -> Any:
    for _ in range(20):
        yield b" " * 1_000


async def test_bodies_that_no_memory_is_left_for_are_told_when_to_come_again() -> None:
    async with http_node(Script(endless=True), max_body_bytes=1_024) as node:
        waiting = [asyncio.create_task(node.post(user("x" * 900))) for _ in range(4)]
        await until(lambda: node.script.running == 4)
        response = await node.post(user("x" * 900))
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        for task in waiting:
            task.cancel()
        await until(lambda: node.chat.budget.held_bytes == 0)


async def test_an_answer_that_does_not_end_while_the_node_drains_is_told_so() -> None:
    async with http_node(Script([], endless=True), drain_s=0) as node:
        asking = asyncio.create_task(node.post(user("x")))
        await until(lambda: node.script.running == 1)
        await node.server.drain()
        response = await asking
    assert (response.status_code, response.json()["error"]["code"]) == (503, "cancelled")


async def test_models_are_listed_and_other_paths_are_refused_in_the_same_form() -> None:
    async with http_node() as node:
        client = openai.AsyncOpenAI(base_url=node.url, api_key="none", max_retries=0)
        [model] = (await client.models.list()).data
        assert (model.id, model.max_model_len) == ("scenes", 512)  # type: ignore[attr-defined]
        assert (await client.models.retrieve("scenes")).id == "scenes"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("org/other")
        with pytest.raises(openai.NotFoundError, match=r"There is no /v1/embeddings here"):
            await client.embeddings.create(model="scenes", input="x")
        await client.close()
        assert (await node.http.get(f"{node.url}/chat/completions")).status_code == 405
        assert (await _with_type(node, "text/plain")).status_code == 415


async def _with_type(node: Served, content_type: str) -> httpx2.Response:
    headers = {"content-type": content_type}
    return await node.http.post(f"{node.url}/chat/completions", content=b"{}", headers=headers)
