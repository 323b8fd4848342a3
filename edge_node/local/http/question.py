"""Makes a question for the answerer of what a chat completion request says."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_node.answering.question import Question
from edge_node.local.http.errors import RequestRefused
from edge_node.local.http.fields import ChatRequest, ImageField, MessageField
from splitvlm.domain import (
    GREEDY,
    JSON_OBJECT,
    AnswerConstraint,
    Choices,
    Conversation,
    ImagePart,
    JsonSchema,
    Message,
    Part,
    Sampling,
    Speaker,
    TextPart,
)

SEED_BITS = 32  # of a drawn seed: few enough to be typed again, and exact in every JSON reader
_SPEAKERS = {
    "system": Speaker.SYSTEM,
    "developer": Speaker.SYSTEM,
    "user": Speaker.USER,
    "assistant": Speaker.ASSISTANT,
}


@dataclass(frozen=True, slots=True)
class Offer:
    """Says what the node offers to every request."""

    model: str  # its name in the API
    max_context: int  # tokens that it reads, with the answer's
    most_new_tokens: int  # of one answer
    temperature: float  # where a request names none


def question_of(request: ChatRequest, offer: Offer, fetch: Callable[[str], bytes]) -> Question:
    """Returns the question; `fetch` gives the file of an image by its URL. Raises UsageError.

    An answer with fewer tokens than `max_tokens` keeps to what was asked, so that the node's own limit holds in silence; the
    reply's `finish_reason` is `length` then.
    """
    _check_model(request, offer)
    conversation = Conversation(tuple(map(_message, request.messages)))
    return Question(
        conversation=conversation,
        images=tuple(fetch(url) for url in _image_urls(request)),
        plan=request.splitvlm.plan if request.splitvlm else "",
        max_new_tokens=_max_new_tokens(request, offer),
        sampling=_sampling(request, offer),
        stop=_stop(request),
    )


def _check_model(request: ChatRequest, offer: Offer) -> None:
    if request.model is not None and request.model != offer.model:
        raise RequestRefused(
            f"The model '{request.model[:200]}' is not served here.",
            advice=f"This edge node serves '{offer.model}'.",
            status=404,
            param="model",
            code="model_not_found",
        )


def _message(message: MessageField) -> Message:
    parts: tuple[Part, ...]
    if isinstance(message.content, str):
        parts = (TextPart(message.content),)
    else:
        parts = tuple(ImagePart() if isinstance(p, ImageField) else TextPart(p.text) for p in message.content)
    return Message(_SPEAKERS[message.role], parts)


def _image_urls(request: ChatRequest) -> Iterator[str]:
    for message in request.messages:
        if not isinstance(message.content, str):
            yield from (part.image_url.url for part in message.content if isinstance(part, ImageField))


def _max_new_tokens(request: ChatRequest, offer: Offer) -> int:
    wanted = request.max_completion_tokens or request.max_tokens or 0
    return min(wanted, offer.most_new_tokens)


def _sampling(request: ChatRequest, offer: Offer) -> Sampling:
    temperature = offer.temperature if request.temperature is None else request.temperature
    seed = secrets.randbits(SEED_BITS) if request.seed is None and temperature > 0 else request.seed or 0
    return Sampling(
        temperature=temperature,
        top_p=GREEDY.top_p if request.top_p is None else request.top_p,
        top_k=max(0, request.top_k or 0),
        repetition_penalty=GREEDY.repetition_penalty
        if request.repetition_penalty is None
        else request.repetition_penalty,
        seed=seed,
        constraint=_constraint(request),
        top_logprobs=_top_logprobs(request),
    )


def _stop(request: ChatRequest) -> tuple[str, ...]:
    if request.stop is None:
        return ()
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)


def _constraint(request: ChatRequest) -> AnswerConstraint | None:
    """Returns what the answer must be. Raises UsageError."""
    wanted, choices = request.response_format, request.structured_outputs and request.structured_outputs.choice
    if choices:
        if wanted is not None and wanted.type != "text":
            raise RequestRefused(
                "'response_format' and 'structured_outputs' are two forms of an answer.",
                advice="Leave one of them out.",
            )
        return Choices(tuple(choices))
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return JSON_OBJECT
    if wanted.json_schema is None:
        raise RequestRefused("response_format.json_schema is missing.", param="response_format.json_schema")
    return JsonSchema(json.dumps(wanted.json_schema.schema_, ensure_ascii=False))


def _top_logprobs(request: ChatRequest) -> int | None:
    if request.logprobs:
        return request.top_logprobs or 0
    if request.top_logprobs:
        raise RequestRefused(
            "top_logprobs needs logprobs.", advice="Set 'logprobs' to true, too.", param="top_logprobs"
        )
    return None
