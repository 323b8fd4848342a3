"""The HTTP API of an edge node in the test process, in front of an answerer that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from edge_node.answering.events import Answered, AnswerEvent, AnswerText, LikelyToken, PlanChosen, ShownToken
from edge_node.answering.question import Question
from edge_node.answering.report import RequestReport
from edge_node.cloud.exchange import PromptCount
from edge_node.local.http.access import Access
from edge_node.local.http.app import make_app
from edge_node.local.http.chat import ChatEndpoint
from edge_node.local.http.images import ImageFiles
from edge_node.local.http.question import Offer
from edge_node.local.http.server import HttpServer
from edge_node.settings import Http
from splitvlm.domain import Choices, Plan
from splitvlm.grammar.choices import ChoiceProbability
from splitvlm.planning.policy import Choice

OFFER = Offer("scenes", max_context=512, most_new_tokens=100, temperature=0.0)
SHOWN = (LikelyToken(5, b"two ", -0.5), LikelyToken(6, b"\xe2\x82", -0.25))
PLAN = Plan.parse("tokens/int4")


def report_of(question: Question, finish_reason: str) -> RequestReport:
    prompt = PromptCount(70, 64, 9)
    choices: tuple[ChoiceProbability, ...] = ()
    if isinstance(question.sampling.constraint, Choices):
        choices = tuple(ChoiceProbability(text, 0.5) for text in question.sampling.constraint.texts)
    return RequestReport(
        PLAN,
        token_ids=[5, 6, 7],
        finish_reason=finish_reason,
        prompt=prompt,
        sampling=question.sampling,
        choices=choices,
    )


def tokens_of(question: Question) -> tuple[ShownToken, ...]:
    num_top = question.sampling.top_logprobs
    return () if num_top is None else (ShownToken(SHOWN[0], SHOWN[1:][:num_top]),)


@dataclass
class Script:
    """Answers with these pieces, then fails or ends; it notes what was asked and what was closed early."""

    pieces: list[str] = field(default_factory=lambda: ["two ", "cells"])
    error: Exception | None = None
    endless: bool = False  # after the pieces it waits for ever
    finish_reason: str = "stop"
    asked: list[Question] = field(default_factory=list)
    closed: int = 0
    running: int = 0

    async def answer(self, question: Question) -> AsyncGenerator[AnswerEvent, None]:
        self.asked.append(question)
        self.running += 1
        try:
            yield PlanChosen(Choice(PLAN, 1.0, 2.0, "it is a test"), None)
            for piece in self.pieces:
                yield AnswerText(piece, tokens_of(question))
            if self.error is not None:
                raise self.error
            if self.endless:
                await asyncio.Event().wait()
            yield Answered(report_of(question, self.finish_reason), "")
        except (GeneratorExit, asyncio.CancelledError):
            self.closed += 1
            raise
        finally:
            self.running -= 1


@dataclass
class Served:
    url: str  # that of the API, with /v1
    chat: ChatEndpoint
    script: Script
    http: httpx2.AsyncClient
    server: HttpServer

    async def post(self, body: Any, **more: Any) -> httpx2.Response:
        return await self.http.post(f"{self.url}/chat/completions", json=body, **more)


@contextlib.asynccontextmanager
async def http_node(
    script: Script | None = None,
    *,
    drain_s: float = 1.0,
    token: str | None = None,
    certificate: Path | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serves on a free port. `settings` are those of the section `http`."""
    script, http = script or Script(), Http(**settings)
    chat = ChatEndpoint(script, lambda: OFFER, ImageFiles(http), http.max_body_bytes)
    app = make_app(chat, lambda: OFFER, token, 1_700_000_000)
    server = HttpServer(app, Access("127.0.0.1:0", token, certificate), drain_s, chat.close)
    url = await server.listen()
    async with httpx2.AsyncClient(timeout=30.0, verify=False) as client:
        try:
            yield Served(url, chat, script, client, server)
        finally:
            await server.drain()


def user(*content: Any, **more: Any) -> dict[str, Any]:
    """Returns a body with one message of the user."""
    return {"messages": [{"role": "user", "content": content[0] if len(content) == 1 else list(content)}], **more}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}
