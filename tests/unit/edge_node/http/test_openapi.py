"""The description of the HTTP API: what schemathesis makes of it never gives a 5xx."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from edge_node.local.http.fields import ChatRequest
from edge_node.local.http.openapi import description
from edge_node.local.http.unsupported import UNSUPPORTED
from tests.http_node import http_node

CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """Serves in a thread with a loop of its own: schemathesis calls from this one."""
    urls: list[str] = []
    loop, ready, ended = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with http_node() as node:
            urls.append(node.url.removesuffix("/v1"))
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield urls[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join(30)
    loop.close()


@pytest.mark.parametrize(
    ("path", "mode", "examples"),
    [
        ("/v1/models", GenerationMode.POSITIVE, 1),
        ("/v1/models/{model}", GenerationMode.POSITIVE, 10),
        ("/health", GenerationMode.POSITIVE, 1),
        ("/v1/chat/completions", GenerationMode.POSITIVE, 15),
        ("/v1/chat/completions", GenerationMode.NEGATIVE, 30),
    ],
)
def test_no_request_of_the_description_gives_a_5xx(
    base_url: str, path: str, mode: GenerationMode, examples: int
) -> None:
    operations = [found.ok() for found in schemathesis.openapi.from_dict(description()).get_all_operations()]
    [operation] = [each for each in operations if each.path == path]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    def calls(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=base_url, checks=CHECKS)

    calls()


def test_every_path_is_tried() -> None:
    assert set(description()["paths"]) == {"/v1/models", "/v1/models/{model}", "/health", "/v1/chat/completions"}


def test_the_reference_names_every_field_that_is_read_or_refused() -> None:
    page = (Path(__file__).parents[4] / "docs/reference/http-api.md").read_text("utf-8")
    nested = {"messages", "stream_options", "structured_outputs", "splitvlm"}
    assert [name for name in {*ChatRequest.model_fields} - nested | {*UNSUPPORTED} if f"`{name}`" not in page] == []
