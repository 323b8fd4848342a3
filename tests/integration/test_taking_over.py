"""A cloud node that fails in the middle of an answer: another one or the device goes on, and each token comes once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_node.answering.report import RequestReport
from edge_node.answering.side import Side
from edge_node.cloud.link import CloudLink
from splitvlm.crypto.identity import Role
from splitvlm.domain import GREEDY, Sampling
from splitvlm.errors import DeadlineExceeded, UsageError
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from tests.nodes import Cloud, Device, Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model

QUESTION = "Describe the picture."
TOKENS = 16
PLANS = ("image/lossless", "vision:1/lossless", "tokens/lossless", "lm:1/lossless")
PATIENCE_S = 3.0  # more than a node that works is silent for, also on a busy machine
SHORT_S = 0.5  # where it changes nothing that one which works is given up, too
HANGS_S = 30.0


class Fleet:
    """Two cloud nodes and a device that has a link to each."""

    def __init__(self, clouds: Sequence[Cloud], camera: Device, second: CloudLink) -> None:
        self.clouds = clouds
        self.camera = camera
        self.links = [camera.link, second]
        self.blamed: list[CloudLink] = []
        self.released = threading.Event()  # ends what hangs, when the test is over

    def silence(self, number: int, after_tokens: int) -> None:
        """From that token on, the node's engine does nothing any more: a process that hangs. 0: it reads no prompt either."""
        lane, decoder, done = self.clouds[number].engine_lane, self.clouds[number].decoder, 0
        run, step = lane.run, decoder.step

        async def gated_run(*job: Any) -> Any:
            if not after_tokens:
                await asyncio.Event().wait()
            return await run(*job)

        def gated_step(*fed: Any) -> Any:  # each pass gives one token, the one that reads the prompt too
            nonlocal done
            done += 1
            if done > after_tokens:
                self.released.wait(HANGS_S)
            return step(*fed)

        lane.run = gated_run  # type: ignore[method-assign]
        decoder.step = gated_step  # type: ignore[method-assign]

    async def ask(
        self,
        plan: str,
        *,
        standby: bool = True,
        alone: bool = False,
        tokens: int = TOKENS,
        sampling: Sampling = GREEDY,
        silence_timeout_s: float = PATIENCE_S,
    ) -> RequestReport:
        return await self.camera.ask(
            plan,
            PICTURE,
            QUESTION,
            tokens,
            standby=self.links[1:] if standby else [],
            on_fault=self.blamed.append,
            finish_alone=alone,
            silence_timeout_s=silence_timeout_s,
            sampling=sampling,
        )


@pytest.fixture(scope="module")
def model() -> str:
    return tiny_model("scenes-like")


@pytest.fixture(scope="module")
def expected(model: str) -> list[int]:
    tokens = reference_tokens(model, [Prompt.about(PICTURE, QUESTION)], TOKENS)[0]
    assert len(set(tokens)) > 2, "an answer of equal tokens would hide one that is lost or comes twice"
    return tokens


@pytest.fixture
async def fleet(model: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    keys = Keys(tmp_path / "keys")
    async with contextlib.AsyncExitStack() as stack:
        clouds = [await stack.enter_async_context(cloud_node(model, keys, name=f"cloud-{n}")) for n in (1, 2)]
        identity = keys.identity("edge-1", Role.EDGE)
        camera = await stack.enter_async_context(device(model, clouds[0], identity))
        second = CloudLink(clouds[1].address, clouds[1].compatibility, identity, [])
        stack.push_async_callback(second.close)
        fleet = Fleet(clouds, camera, second)
        stack.callback(fleet.released.set)
        yield fleet


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("after_tokens", [0, 1, 5])
async def test_another_node_goes_on(fleet: Fleet, expected: list[int], plan: str, after_tokens: int) -> None:
    fleet.silence(0, after_tokens)
    report = await fleet.ask(plan)
    assert report.token_ids == expected
    [fault] = report.faults
    assert (fault.code, fault.node) == ("deadline", fleet.clouds[0].address)
    assert fault.tokens == after_tokens
    assert PATIENCE_S <= fault.silent_s < HANGS_S
    assert 0 < fault.recovery_s < report.total_s
    assert fleet.blamed == fleet.links[:1]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("after_tokens", [0, 3])
async def test_the_device_goes_on_alone(fleet: Fleet, expected: list[int], plan: str, after_tokens: int) -> None:
    fleet.silence(0, after_tokens)
    report = await fleet.ask(plan, standby=False, alone=True, silence_timeout_s=SHORT_S)
    assert report.token_ids == expected
    assert report.answered_by is Side.DEVICE
    assert len(report.faults) == 1


@pytest.mark.parametrize("plan", PLANS)
async def test_a_sampled_answer_goes_on_with_the_same_tokens(fleet: Fleet, expected: list[int], plan: str) -> None:
    sampling = Sampling(temperature=1.5, top_p=0.95, seed=8)
    undisturbed = await fleet.ask(plan, sampling=sampling)
    alone = await fleet.ask("device", sampling=sampling)
    assert undisturbed.token_ids == alone.token_ids
    assert undisturbed.token_ids != expected, "it is drawn"
    assert len(undisturbed.token_ids) > 6, "it has a middle"
    fleet.silence(0, 5)
    by_standby = await fleet.ask(plan, sampling=sampling)
    by_device = await fleet.ask(plan, sampling=sampling, standby=False, alone=True, silence_timeout_s=SHORT_S)
    for report in (by_standby, by_device):
        assert len(report.faults) == 1
        assert report.token_ids == undisturbed.token_ids
        assert report.sampling == sampling


async def test_two_nodes_fail_one_after_another(fleet: Fleet, expected: list[int]) -> None:
    fleet.silence(0, 3)
    fleet.silence(1, 2)
    slow = fleet.camera.engine.start

    async def later(*arguments: Any) -> Any:
        await asyncio.sleep(0.5 * SHORT_S)  # the second node is the first to go on
        return await slow(*arguments)

    fleet.camera.engine.start = later  # type: ignore[method-assign]
    fleet.camera.engine.go_on = later  # type: ignore[method-assign]
    report = await fleet.ask("image/lossless", alone=True, silence_timeout_s=SHORT_S)
    assert report.token_ids == expected
    assert report.answered_by is Side.DEVICE


async def test_nobody_left_is_an_error(fleet: Fleet) -> None:
    for number in (0, 1):
        fleet.silence(number, 3)
    with pytest.raises(DeadlineExceeded):
        await fleet.ask("tokens/lossless", silence_timeout_s=SHORT_S)


async def test_a_wrong_question_is_refused_once_every_node_said_so(fleet: Fleet) -> None:
    with pytest.raises(UsageError, match="max_new_tokens"):
        await fleet.ask("tokens/lossless", tokens=100_000)
    assert fleet.blamed == fleet.links[:1]


@pytest.mark.parametrize("opened", [False, True])
async def test_a_link_that_is_closed_under_a_request_is_a_failed_node(
    fleet: Fleet, expected: list[int], opened: bool
) -> None:
    """gRPC tells a call whose channel was closed that it is cancelled: taken for its caller's, that would hang the caller."""
    first = fleet.links[0]
    run = fleet.camera.run("tokens/lossless", Prompt.about(PICTURE, QUESTION), TOKENS, standby=fleet.links[1:])
    if not opened:
        await first.close()
    async with asyncio.timeout(30), contextlib.aclosing(run) as tokens:
        async for _ in tokens:
            if opened and len(run.report.token_ids) == 1:
                await first.close()
    assert run.report.token_ids == expected
    assert [fault.code for fault in run.report.faults] == ["peer-unavailable"]
