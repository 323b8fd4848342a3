"""`POST /v1/chat/completions`: a body in, an answer out, whole or as a stream.

The status is sent with the first piece of text, so that what fails before it has a status code of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from edge_node.answering.events import Answered, AnswerEvent, AnswerText, PlanChosen, ShownToken
from edge_node.answering.question import Question
from edge_node.local.http.body import BodyBudget
from edge_node.local.http.errors import RequestRefused, error_reply
from edge_node.local.http.images import ImageFiles
from edge_node.local.http.parsing import parsed
from edge_node.local.http.question import Offer, question_of
from edge_node.local.http.reply import Reply
from edge_node.local.http.sending import Client, ClientGone, while_connected
from splitvlm.errors import Cancelled

THREADS = 4  # in which bodies are parsed and images are got: a host that is slow holds up no more


class Answers(Protocol):
    """Is what this endpoint needs of the answerer."""

    def answer(self, question: Question) -> AsyncGenerator[AnswerEvent, None]: ...


class ChatEndpoint:
    """Serves chat completions in front of one answerer."""

    def __init__(
        self,
        answers: Answers,
        offer: Callable[[], Offer],
        images: ImageFiles,
        most_body_bytes: int,
    ) -> None:
        self._answers = answers
        self._offer = offer
        self._images = images
        self.budget = BodyBudget(most_body_bytes)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; whatever fails is told in the API's own form."""
        client, headers = Client(send), Headers(scope=scope)
        with contextlib.suppress(ClientGone):
            try:
                _check_type(headers)
                with self.budget.held(headers):
                    body = await self.budget.read(receive)
                    await while_connected(receive, self._answered(body, client))
            except ClientGone:
                raise
            except asyncio.CancelledError:  # the server cancels what has not ended when its time to drain is over
                await client.error(error_reply(Cancelled("This edge node is stopping.")))
            except Exception as error:  # noqa: BLE001  the boundary: error_reply logs what is none of ours
                await client.error(error_reply(error))

    async def _answered(self, body: bytes, client: Client) -> None:
        question, reply, streamed = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._question, body
        )
        del body
        async with contextlib.aclosing(self._answers.answer(question)) as events:
            await (_stream if streamed else _whole)(events, reply, client)

    def _question(self, body: bytes) -> tuple[Question, Reply, bool]:
        request, offer = parsed(body), self._offer()
        question = question_of(request, offer, self._images.get)
        include_usage = bool(request.stream_options and request.stream_options.include_usage)
        reply = Reply(offer.model, include_usage, question.sampling.top_logprobs is not None)
        return question, reply, bool(request.stream)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _stream(events: AsyncGenerator[AnswerEvent, None], reply: Reply, client: Client) -> None:
    async for event in events:
        match event:
            case PlanChosen():
                reply.on_plan(event)
            case AnswerText():
                await client.stream(reply.text_chunk(event))
            case Answered():
                await client.stream(reply.last_chunks(event))
    await client.end()


async def _whole(events: AsyncGenerator[AnswerEvent, None], reply: Reply, client: Client) -> None:
    text, tokens = "", list[ShownToken]()
    async for event in events:
        match event:
            case PlanChosen():
                reply.on_plan(event)
            case AnswerText():
                text += event.text
                tokens += event.tokens
            case Answered():
                await client.json(reply.body(text, tokens, event))


def _check_type(headers: Headers) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestRefused(
            f"The body's type is '{media_type[:100]}'.", advice="Send 'Content-Type: application/json'.", status=415
        )
