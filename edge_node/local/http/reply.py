"""Replies of the chat completion API: the whole body, and the chunks of a stream.

Both end with an object named `splitvlm`, which OpenAI's clients pass on: what happened to the request (law 6).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_node.answering.events import Answered, AnswerText, PlanChosen, ShownToken
from edge_node.answering.report import RequestReport
from edge_node.local.http.extension import extension_of
from edge_node.local.http.logprobs import logprobs_of


@dataclass(slots=True)
class Reply:
    """Builds the reply to one request, as a body or as chunks."""

    model: str
    include_usage: bool = False  # in a stream: a last chunk with the usage and no choice
    with_logprobs: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    _chosen: PlanChosen | None = None
    _spoke: bool = False

    def on_plan(self, chosen: PlanChosen) -> None:
        """Notes the choice of plan, which the end of the reply tells."""
        self._chosen = chosen

    def text_chunk(self, event: AnswerText) -> bytes:
        """Returns the chunk of a piece of text. The first one says whose it is."""
        choice = self._choice(event.text)
        return _sse(self._chunk([choice | self._logprobs(event.tokens)]))

    def last_chunks(self, event: Answered) -> bytes:
        """Returns the chunks after the text, of which the last holds `splitvlm`, and the stream's end mark."""
        ending = self._chunk([self._choice("", event.report.finish_reason)])
        chunks = [ending, self._chunk([])] if self.include_usage else [ending]
        if self.include_usage:
            chunks[-1]["usage"] = usage_of(event.report)
        chunks[-1]["splitvlm"] = extension_of(self._chosen, event)
        return b"".join(map(_sse, chunks)) + b"data: [DONE]\n\n"

    def body(self, text: str, tokens: Sequence[ShownToken], event: Answered) -> dict[str, Any]:
        """Returns the whole reply."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "finish_reason": event.report.finish_reason,
        } | self._logprobs(tokens)
        head = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.model}
        extension = extension_of(self._chosen, event)
        return head | {"choices": [choice], "usage": usage_of(event.report), "splitvlm": extension}

    def _logprobs(self, tokens: Sequence[ShownToken]) -> dict[str, Any]:
        return {"logprobs": logprobs_of(tokens) if self.with_logprobs else None}

    def _choice(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        delta: dict[str, Any] = {} if self._spoke else {"role": "assistant"}
        if text or not self._spoke:
            delta["content"] = text
        self._spoke = True
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self.include_usage else {}
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return head | {"choices": choices} | usage


def usage_of(report: RequestReport) -> dict[str, Any]:
    """Returns the tokens of a request as OpenAI counts them, with those of images beside."""
    completion_tokens, prompt = len(report.token_ids), report.prompt
    return {
        "prompt_tokens": prompt.tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt.tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": prompt.cached_tokens, "image_tokens": prompt.image_tokens},
    }


def error_chunk(body: dict[str, Any]) -> bytes:
    """Returns an error in the middle of a stream, which OpenAI's clients raise."""
    return _sse(body) + b"data: [DONE]\n\n"


def _sse(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
