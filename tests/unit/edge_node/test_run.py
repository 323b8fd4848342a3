"""One answer over scripted cloud nodes and a scripted device: each token comes once, whoever fails (law 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_node.answering.question import PlannedQuestion
from edge_node.answering.run import AnswerRun, CloudNodes, Fallbacks
from edge_node.answering.side import Side
from edge_node.cloud.cloud_request import CloudRequest, Vocabulary
from edge_node.cloud.exchange import Exchange
from edge_node.cloud.known_prefixes import KnownPrefix, KnownPrefixes
from edge_node.cloud.link import CloudLink
from edge_node.engine import DeviceEngine
from edge_node.privacy import EVERYTHING_MAY_LEAVE
from edge_node.token_source import TokenSource
from splitvlm.domain import Plan, Sampling
from splitvlm.errors import CapacityError, PeerUnavailable, PrefixEvicted, SplitvlmError
from splitvlm.link.estimator import LinkEstimator
from splitvlm.model.prompt import Prompt

ANSWER = [5, 6, 7, 8, 9, 10, 11, 12]
PICTURE = Image.new("RGB", (4, 4))


class Script(TokenSource):
    """What one cloud node says to one request: the answer's tokens after those that are there, then the error."""

    def __init__(self, link: Link, request: CloudRequest) -> None:
        super().__init__()
        self._link = link
        resumed = len(request.answer.resume_token_ids)
        assert list(request.answer.resume_token_ids) == ANSWER[:resumed]
        self._error = link.errors.pop(0) if link.errors else None
        self._rest = iter(ANSWER[resumed:] if self._error is None else ANSWER[resumed : resumed + link.num_tokens])

    async def _next(self) -> int | None:
        if self._link.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        token_id = next(self._rest, None)
        if token_id is None and self._error is not None:
            raise self._error
        return token_id

    async def _close(self) -> None:
        self._link.num_open -= 1


class Link:
    """A cloud node that gives each request `num_tokens` and then the next of its errors; without one, all tokens."""

    def __init__(self, name: str, num_tokens: int = 0, *errors: SplitvlmError, hangs: bool = False) -> None:
        self.address = self.peer = name
        self.prefixes = KnownPrefixes()
        self.num_tokens = num_tokens
        self.errors = list(errors)
        self.hangs = hangs
        self.num_open = 0
        self.asked: list[CloudRequest] = []
        self.opened_ahead = 0

    def answer(self, request: CloudRequest, _exchange: Exchange) -> Script:
        self.asked.append(request)
        self.num_open += 1
        return Script(self, request)

    def estimate(self) -> Any:
        return LinkEstimator().estimate(0.0)

    def open_ahead(self) -> None:
        self.opened_ahead += 1


class FakeTokens:
    """An answer whose keys and values take 1,000 bytes."""

    cache_bytes = 1_000
    num_prompt_tokens = 20
    num_image_tokens = 16

    def __init__(self, token_ids: Iterable[int]) -> None:
        self._token_ids = iter(token_ids)

    def __next__(self) -> int:
        return next(self._token_ids)


class FakeEngine:
    """A device that knows the answer."""

    slowdown = 1.0
    vocabulary = Vocabulary(100, frozenset())

    async def check(self, _prompt: Prompt) -> None:
        pass

    async def encode_image(self, _image: Image.Image, _level: str) -> tuple[bytes, float]:
        return b"picture", 0.25

    async def start(
        self,
        _prompt: Prompt,
        max_new_tokens: int,
        resume_token_ids: Sequence[int],
        _sampling: Sampling,
        _variant: str,
    ) -> tuple[FakeTokens, float]:
        return FakeTokens(ANSWER[len(resume_token_ids) : max_new_tokens]), 0.5

    async def next(self, tokens: FakeTokens) -> tuple[int | None, float]:
        await asyncio.sleep(0)
        return next(tokens, None), 0.125


def run(
    *links: Link,
    plan: str = "image/jpeg75",
    name: bytes = b"",
    book: Callable[[int], None] = lambda _: None,
    **fallbacks: Any,
) -> AnswerRun:
    question = PlannedQuestion(
        Plan.parse(plan), Prompt.about(PICTURE, "How many?"), len(ANSWER), (name,) if name else ()
    )
    nodes = CloudNodes(tuple(cast(CloudLink, link) for link in links))
    return AnswerRun(
        cast(DeviceEngine, FakeEngine()), EVERYTHING_MAY_LEAVE, question, nodes, Fallbacks(**fallbacks), book
    )


async def tokens(answer: AnswerRun) -> list[int]:
    async with asyncio.timeout(10):
        return [token_id async for token_id in answer]


async def test_the_device_alone() -> None:
    answer = run(plan="device")
    assert await tokens(answer) == answer.report.token_ids == ANSWER
    report = answer.report
    assert (report.answered_by, report.device_s, report.device_tokens_s) == (Side.DEVICE, 0.625, 1.0)
    assert report.total_s >= report.first_token_s > 0


@pytest.mark.parametrize("plan", ["device", "image/jpeg75"])
async def test_a_device_without_memory_for_keys_and_values_does_not_answer_alone(plan: str) -> None:
    asked = list[int]()

    def full(num_bytes: int) -> None:
        asked.append(num_bytes)
        raise CapacityError("This edge node is full.", retry_after_s=1.0)

    answer = run(Link("a", 2, PeerUnavailable("gone")), plan=plan, book=full, finish_alone=True)
    with pytest.raises(CapacityError, match="This edge node is full"):
        await tokens(answer)
    assert asked == [FakeTokens.cache_bytes]
    assert len(answer.report.token_ids) == (2 if plan != "device" else 0)


async def test_one_node_that_ends_in_order() -> None:
    link = Link("a")
    answer = run(link, silence_timeout_s=3.0, name=b"12345678")
    assert await tokens(answer) == ANSWER
    report = answer.report
    assert (report.answered_by, report.answered_node, report.faults, report.encode_s) == (Side.CLOUD, "a", [], 0.25)
    [request] = link.asked
    assert (request.prefix_name, request.silence_timeout_s) == (b"12345678", 3.0)
    assert link.num_open == 0


@pytest.mark.parametrize("failing_after", range(9))
async def test_a_standby_goes_on_where_the_first_stopped(failing_after: int) -> None:
    first, second = Link("a", failing_after, PeerUnavailable("gone")), Link("b")
    answer = run(first, second)
    assert await tokens(answer) == ANSWER
    [fault] = answer.report.faults
    assert (fault.code, fault.node, fault.tokens) == ("peer-unavailable", "a", failing_after)
    assert fault.recovery_s > 0
    assert len(second.asked) == (failing_after < 8), "where all tokens are there nobody is asked"
    assert (first.num_open, second.num_open) == (0, 0)


async def test_a_node_without_room_is_asked_again_after_its_pause() -> None:
    full = [CapacityError("full", retry_after_s=1e-3) for _ in range(2)]
    for error in full:
        error.from_peer = True
    link = Link("a", 3, *full)
    answer = run(link)
    assert await tokens(answer) == ANSWER
    assert [len(request.answer.resume_token_ids) for request in link.asked] == [0, 3, 6]


async def test_nobody_left_is_the_last_error() -> None:
    links = Link("a", 2, PeerUnavailable("first")), Link("b", 2, PeerUnavailable("second"))
    answer = run(*links)
    with pytest.raises(PeerUnavailable, match="second"):
        await tokens(answer)
    assert answer.report.token_ids == ANSWER[:4]
    assert [link.num_open for link in links] == [0, 0]


async def test_a_prefix_that_is_gone_is_sent_once_more_and_is_no_fault() -> None:
    link = Link("a", 0, PrefixEvicted("gone"))
    link.prefixes.add(KnownPrefix(b"12345678", Plan.parse("image/jpeg75"), 1, 16))
    answer = run(link, name=b"12345678")
    assert await tokens(answer) == ANSWER
    assert [request.payload.prefix_cached for request in link.asked] == [True, False]
    assert (answer.report.faults, answer.report.prefix_cached) == ([], False)


async def test_a_hedge_answers_where_the_cloud_hangs_and_frees_it_at_once() -> None:
    link = Link("a", hangs=True)
    answer = run(link, hedge_after_s=0.0)
    assert await anext(answer) == ANSWER[0]
    async with asyncio.timeout(60):
        while link.num_open:  # noqa: ASYNC110  its task ends by itself
            await asyncio.sleep(0)
    assert [ANSWER[0], *await tokens(answer)] == ANSWER
    report = answer.report
    assert (report.answered_by, report.hedged, report.hedge_s) == (Side.DEVICE, True, 0.5 + 9 * 0.125)
    assert link.opened_ahead == 1


async def test_whoever_leaves_closes_all_that_is_open() -> None:
    for links in ((Link("a"),), (Link("a", 1, PeerUnavailable("gone")), Link("b"))):
        answer = run(*links, finish_alone=True)
        for _ in range(3):
            await anext(answer)
        await answer.aclose()
        assert [link.num_open for link in links] == [0] * len(links)
        with pytest.raises(StopAsyncIteration):
            await anext(answer)


async def test_a_cancelled_caller_closes_all_that_is_open() -> None:
    link = Link("a", hangs=True)
    waiting = asyncio.ensure_future(tokens(run(link, hedge_after_s=1e6)))
    while not link.num_open:  # noqa: ASYNC110  the run is another task
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert link.num_open == 0


@settings(max_examples=200, deadline=None)
@given(
    before_fault=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    alone=st.booleans(),
    hedge_after_s=st.sampled_from([None, 0.0, 1e6]),
)
def test_each_token_comes_once_whoever_fails(before_fault: list[int], alone: bool, hedge_after_s: float | None) -> None:
    links = [Link(str(number), count, PeerUnavailable("gone")) for number, count in enumerate(before_fault)]
    if not alone:
        links.append(Link("whole"))
    answer = run(*links, finish_alone=alone, hedge_after_s=hedge_after_s)
    assert asyncio.run(tokens(answer)) == ANSWER
    assert all(link.num_open == 0 for link in links)
