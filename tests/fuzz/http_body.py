"""The body of a chat completion request: parsed, and made a question, without a port."""

from __future__ import annotations

import base64
import contextlib
import json

from edge_node.local.http.images import ImageFiles
from edge_node.local.http.parsing import parsed
from edge_node.local.http.question import Offer, question_of
from edge_node.settings import Http
from splitvlm.domain import MAX_IMAGES
from splitvlm.errors import UsageError

OFFER = Offer("scenes", max_context=512, most_new_tokens=64, temperature=0.0)
FILES = ImageFiles(Http())


def http_body(data: bytes) -> None:
    with contextlib.suppress(UsageError):
        question = question_of(parsed(data), OFFER, FILES.get)
        assert len(question.images) == question.conversation.num_images <= MAX_IMAGES
        assert 0 <= question.max_new_tokens <= OFFER.most_new_tokens


def http_body_seeds() -> list[bytes]:
    url = "data:image/png;base64," + base64.b64encode(b"picture").decode()
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "A cell."},
        {"role": "user", "content": "Infected?"},
    ]
    wishes = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 1, "stop": ["a", "b"], "max_tokens": 9, "n": 1}
    stream = {"stream": True, "stream_options": {"include_usage": True}, "splitvlm": {"plan": "tokens/int4"}}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    bodies = [
        {"messages": turns[1:2]},
        {"messages": turns, "model": "scenes"} | wishes | stream,
        {"messages": turns[3:], "response_format": schema, "logprobs": True, "top_logprobs": 2},
        {"messages": turns[3:], "structured_outputs": {"choice": ["yes", "no"]}, "tools": []},
    ]
    return [json.dumps(body).encode() for body in bodies]
