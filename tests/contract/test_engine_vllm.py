"""The engine `vllm` keeps what every engine keeps, at the cuts that it serves. One engine for all tests: it starts slowly.

These tests run in the environment of `make install-vllm` (`make test-vllm`); elsewhere they are skipped.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import pytest
import pytest_asyncio
import torch

from cloud_node.engine.lane import Lane
from cloud_node.engine.protocol import Sequence, SequenceRequest
from cloud_node.engine.recent import RecentMean
from cloud_node.engine.vllm import ONE_PROCESS, VllmEngine, executor_for
from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.model.causal_folder import check_causal
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.parts import CloudPart, DevicePart
from splitvlm.model.prompt import Prompt
from splitvlm.scenes.samples import samples
from tests.samples import tiny_model

MODEL = "scenes"
NUM_TOKENS = 12
CUTS = [IMAGE, Cut.parse("vision:3"), TOKENS]

pytestmark = pytest.mark.asyncio(loop_scope="module")
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed in this environment: `make test-vllm`"
)


@cache
def parts() -> tuple[DevicePart, CloudPart]:
    return load_device(MODEL, [DEVICE], threads=1), load_cloud(MODEL, [IMAGE], threads=1, packed=False)


@cache
def undivided(index: int) -> list[int]:
    return list(parts()[0].generate(Prompt.about(*list(samples(8, MODEL))[index]), NUM_TOKENS))


def asked(cut: Cut, index: int = 0, **changes: Any) -> SequenceRequest:
    device, cloud = parts()
    prompt = Prompt.about(*list(samples(8, MODEL))[index])
    inputs = cloud.inputs(prompt) if cut == IMAGE else device.lower(prompt, cut).boundary
    fields = {"device": f"edge-{index}", "cut": cut, "inputs": inputs, "max_new_tokens": NUM_TOKENS}
    return SequenceRequest(**(fields | changes))


async def answer(engine: VllmEngine, request: SequenceRequest) -> list[int]:
    sequence: Sequence = engine.start(request)
    try:
        await sequence.prefill()
        token_ids = [token_id async for token_id in sequence]
        assert sequence.finished
        assert sequence.times.prefill_s > 0
        return token_ids
    finally:
        sequence.cancel()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(parts()[1], 2**30, Lane("torch", RecentMean(1.0)), compiled=False)
    yield engine
    assert engine.close()


@needs_vllm
@pytest.mark.vllm
@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_tokens_are_those_of_the_undivided_model_among_neighbours(engine: VllmEngine, cut: Cut) -> None:
    answers = await asyncio.gather(*(answer(engine, asked(cut, index)) for index in range(8)))
    assert answers == [undivided(index) for index in range(8)]


@needs_vllm
@pytest.mark.vllm
async def test_an_answer_goes_on_after_the_tokens_that_another_node_gave(engine: VllmEngine) -> None:
    longest = max(range(8), key=lambda index: len(undivided(index)))
    expected = undivided(longest)
    assert len(expected) > 2
    for taken in range(1, len(expected)):
        request = asked(TOKENS, longest, resume_token_ids=tuple(expected[:taken]))
        assert await answer(engine, request) == expected[taken:]


@needs_vllm
@pytest.mark.vllm
async def test_invalid_inputs_end_their_own_sequence_only(engine: VllmEngine) -> None:
    good = asked(TOKENS)
    broken = [
        dict(good.inputs) | {"hidden": torch.full_like(good.inputs["hidden"], torch.nan)},
        dict(good.inputs) | {"ids": good.inputs["ids"] + 10**6},
        dict(good.inputs) | {"hidden": good.inputs["hidden"][:-1]},
        dict(good.inputs) | {"hidden": good.inputs["hidden"][:, :-1]},
    ]
    for inputs in broken:
        with pytest.raises(ProtocolError):
            await answer(engine, asked(TOKENS, inputs=inputs))
    assert await answer(engine, good) == undivided(0)


@needs_vllm
@pytest.mark.vllm
async def test_a_cancelled_sequence_leaves_vllm(engine: VllmEngine) -> None:
    sequence = engine.start(asked(TOKENS, max_new_tokens=300))
    await sequence.prefill()
    sequence.cancel()
    async with asyncio.timeout(20):
        while engine.in_work:  # noqa: ASYNC110 (an engine tells nobody when it is idle)
            await asyncio.sleep(0.01)
    assert await answer(engine, asked(TOKENS)) == undivided(0)


@needs_vllm
@pytest.mark.vllm
async def test_cuts_in_the_language_model_are_refused_by_name(engine: VllmEngine) -> None:
    with pytest.raises(UsageError, match="does not serve the cut lm:1"):
        engine.start(asked(Cut.parse("lm:1")))


@pytest.mark.parametrize(
    ("family", "need"), [("qwen2.5-vl", "positions on several axes"), ("gemma3", "a mask in which")]
)
async def test_families_whose_prompts_need_more_are_refused_by_name(family: str, need: str) -> None:
    with pytest.raises(UsageError, match=need):
        check_causal(load_cloud(tiny_model(family), [IMAGE], threads=1))


@pytest.mark.parametrize(("num_cores", "executor"), [(1, ONE_PROCESS), (2, ONE_PROCESS), (8, ONE_PROCESS), (64, None)])
async def test_scheduler_and_model_share_a_process_where_cores_are_few(num_cores: int, executor: str | None) -> None:
    assert executor_for(num_cores) == executor
