"""The fields of a chat completion request that this API reads, with their types and bounds.

What fields mean together is decided in question.py. Fields that are not here are in unsupported.py, or ignored, as vLLM does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictBool, StrictFloat, StrictInt, StrictStr, Tag

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_CHOICES = 1_000
MOST_TOKENS = 2**20  # more than any model here reads: a larger number is a mistake, not a wish
MAX_TOP_LOGPROBS = 20  # as OpenAI has it

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Tokens = Annotated[StrictInt, Field(ge=1, le=MOST_TOKENS)]


class Fields(BaseModel):
    """Is an object of a request. Fields that it does not name are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class TextField(Fields):
    """Holds a text part of a message."""

    type: Literal["text"]
    text: StrictStr


class ImageUrl(Fields):
    """Says where an image is. `detail` is ignored: the model has one size of images."""

    url: StrictStr = Field(description="a data URI, or a file or host that the node's `http` section allows")


class ImageField(Fields):
    """Holds an image part of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


PartField = Annotated[TextField | ImageField, Field(discriminator="type")]


def _form(content: Any) -> str:
    return "parts" if isinstance(content, list | tuple) else "string"


Content = Annotated[
    Annotated[StrictStr, Tag("string")] | Annotated[list[PartField], Tag("parts")], Discriminator(_form)
]


class MessageField(Fields):
    """Holds a message. `developer` is OpenAI's newer word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class StreamOptions(Fields):
    """Says what a stream's end holds."""

    include_usage: StrictBool | None = None


class JsonSchema(Fields):
    """Holds a JSON schema that the answer keeps to."""

    name: StrictStr | None = None
    schema_: dict[str, Any] = Field({}, alias="schema")


class ResponseFormat(Fields):
    """Says what form the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Fields):
    """Holds vLLM's own form of constraints; of them, the choices."""

    choice: list[StrictStr] | None = Field(None, min_length=1, max_length=MAX_CHOICES)


class Wishes(Fields):
    """Holds what splitvlm knows and OpenAI does not: a wanted plan."""

    plan: StrictStr = ""


class ChatRequest(Fields):
    """Holds the body of `POST /v1/chat/completions`. Null counts as absent."""

    messages: list[MessageField] = Field(min_length=1)
    model: StrictStr | None = Field(None, description="a name of `GET /v1/models`; absent: the model that is served")
    stream: StrictBool | None = Field(None, description="true: server-sent events, a chunk for each piece of text")
    stream_options: StreamOptions | None = None
    n: Annotated[StrictInt, Field(ge=1, le=1)] | None = Field(None, description="1")
    max_tokens: Tokens | None = Field(None, description="most tokens of the answer; the node's own limit holds, too")
    max_completion_tokens: Tokens | None = Field(None, description="the newer name of max_tokens, which it overrides")
    temperature: StrictFloat | None = Field(None, ge=0, description="0: greedy; absent: as `http.temperature` says")
    top_p: StrictFloat | None = None
    top_k: StrictInt | None = Field(None, ge=-1, description="0 or -1: among all tokens")
    repetition_penalty: StrictFloat | None = None
    seed: StrictInt | None = Field(None, description="absent: the node draws one, and the reply says it")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOP_STRINGS)] | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    splitvlm: Wishes | None = None
