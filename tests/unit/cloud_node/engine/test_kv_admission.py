"""The budget of keys and values, applied: sequences of the engine `torch` and cached prefixes in one memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from cloud_node.engine.kv_rows import RowKind
from cloud_node.engine.lane import Lane
from cloud_node.engine.prefix_cache import PrefixCache, PrefixEntry
from cloud_node.engine.protocol import SequenceRequest
from cloud_node.engine.recent import RecentMean
from cloud_node.engine.torch_engine import TorchEngine
from cloud_node.engine.torch_sequence import TorchSequence
from splitvlm.domain import IMAGE, TOKENS, Plan
from splitvlm.errors import CapacityError
from splitvlm.model.batch.arena import GROWTH_ROWS
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.parts import CloudPart
from splitvlm.model.prompt import Prompt
from tests.samples import tiny_model
from tests.tiny_models import picture

PLAN = Plan.parse("tokens/lossless")
QUESTIONS = ["What is it?", "How many cells are infected?", "a", "Is there a lake here?", "Where?", "Why is that so?"]
LIMITS = [24, 40, 56, 40, 56, 40]


@cache
def part() -> CloudPart:
    return load_cloud(tiny_model("scenes-like"), [IMAGE], threads=1)


@cache
def requests() -> list[SequenceRequest]:
    device = load_device(tiny_model("scenes-like"), [TOKENS], threads=1)
    return [
        SequenceRequest(
            device=f"edge-{number}",
            cut=TOKENS,
            inputs=device.lower(Prompt.about(picture(64 + 8 * number, 64), question), TOKENS).boundary,
            max_new_tokens=limit,
        )
        for number, (question, limit) in enumerate(zip(QUESTIONS, LIMITS, strict=True))
    ]


def row_bytes() -> int:
    spec = part().spec
    return spec.cache_bytes(spec.lm_layers, "float32", 128)


class Passes:
    """Lets an engine's passes run one by one; their number is the engine's clock."""

    def __init__(self, engine: TorchEngine) -> None:
        self.count = 0
        self._go = threading.Semaphore(0)
        self._step = engine._decoder.step
        engine._decoder.step = self._gated  # type: ignore[method-assign]
        engine.admission.clock = lambda: float(self.count)

    async def run(self, until: Callable[[], bool]) -> None:
        """Runs passes until that holds."""
        async with asyncio.timeout(30):
            while not until():
                expected = self.count + 1
                self._go.release()
                while self.count < expected and not until():  # noqa: ASYNC110 (a pass ends in another thread)
                    await asyncio.sleep(0)
        await asyncio.sleep(0)  # what ended in the last pass is given back in the event loop

    def open(self) -> None:
        """Lets all passes run from now on."""
        self._go.release(10_000)

    def _gated(self, *args: Any) -> Any:
        self._go.acquire()
        logits = self._step(*args)
        self.count += 1
        return logits


@pytest.fixture
def prefixes() -> PrefixCache:
    return PrefixCache(2**30, 60.0)


@pytest.fixture
async def engine(prefixes: PrefixCache) -> AsyncIterator[TorchEngine]:
    """An engine with room for four short rows, which are allocated together."""
    made = TorchEngine(
        part(),
        GROWTH_ROWS * row_bytes(),
        lambda between: Lane("torch", RecentMean(1.0), between=between),
        prefixes.leave,
    )
    yield made
    assert made.close()


async def test_the_time_to_ask_again_comes_true(engine: TorchEngine) -> None:
    """Passes are the clock: nothing depends on how fast this machine is."""
    passes = Passes(engine)
    running = [engine.start(request) for request in requests()[:GROWTH_ROWS]]
    prefills = [asyncio.create_task(sequence.prefill()) for sequence in running]
    await passes.run(lambda: all(sequence._num_tokens > 2 for sequence in running))
    with pytest.raises(CapacityError, match="memory for caches is full") as refused:
        engine.start(requests()[4])
    asked, told = passes.count, refused.value.retry_after_s
    assert 0 < told <= 1.2 * min(LIMITS) + 1, "the shortest answer is the first to end"
    await passes.run(lambda: passes.count >= asked + told or all(sequence.finished for sequence in running))
    with pytest.raises(CapacityError, match="memory for caches is full"):
        engine.start(requests()[5])  # came later: what is free is kept for whoever was refused before
    admitted = engine.start(requests()[4])
    passes.open()
    await asyncio.gather(*prefills)
    await admitted.prefill()
    tokens = [token async for token in admitted]
    assert len(tokens) == LIMITS[4] or tokens[-1] in part().model.generation_config.eos_token_id
    for sequence in (*running, admitted):
        sequence.cancel()


async def prefix_of(engine: TorchEngine, request: SequenceRequest) -> PrefixEntry:
    sequence = engine.start(replace(request, keep_prefix=True, max_new_tokens=1))
    prefix = await sequence.prefill()
    sequence.cancel()
    assert prefix is not None
    return PrefixEntry(PLAN, prefix)


async def all_returned(engine: TorchEngine) -> None:
    async with asyncio.timeout(20):
        while engine.admission.budget.held_bytes:  # noqa: ASYNC110 (given back in the event loop, after the thread)
            await asyncio.sleep(0.001)


async def test_cached_prefixes_make_room_for_running_answers_and_never_the_other_way(
    engine: TorchEngine, prefixes: PrefixCache
) -> None:
    budget = engine.admission.budget
    budget.max_bytes += row_bytes()
    entry = await prefix_of(engine, requests()[0])
    await all_returned(engine)
    size = entry.prefix.num_bytes
    fit = budget.max_bytes // size
    for number in range(fit + 3):
        assert prefixes.put(f"edge-{number % 2}", str(number).encode(), entry)
        assert prefixes.kv_bytes <= budget.max_bytes
    assert prefixes.kv_bytes == fit * size
    running: list[TorchSequence] = []
    for request in requests()[:GROWTH_ROWS]:
        running.append(engine.start(request))
        assert prefixes.kv_bytes + budget.held_bytes <= budget.max_bytes
    left = row_bytes() // size
    assert prefixes.kv_bytes == left * size, "what rows leave is used"
    newest = [prefixes.get(f"edge-{number % 2}", str(number).encode()) is not None for number in range(fit + 3)]
    assert newest == [False] * (fit + 3 - left) + [True] * left, "the least recently used went first"
    assert prefixes.put("edge-0", b"new", entry)
    assert prefixes.kv_bytes == left * size
    assert budget.held_bytes == GROWTH_ROWS * row_bytes(), "no running answer gave way"
    for sequence in running:
        await sequence.prefill()
        assert engine._decoder.cache_bytes <= budget.held_bytes
        assert [token async for token in sequence]
        sequence.cancel()
    await all_returned(engine)
    assert engine._decoder.cache_bytes == 0


async def test_a_prefix_that_has_no_room_beside_running_answers_is_not_kept(
    engine: TorchEngine, prefixes: PrefixCache
) -> None:
    entry = await prefix_of(engine, requests()[0])
    await all_returned(engine)
    engine.admission.admit("edge-1", RowKind(part().spec.lm_layers, 128), 8)
    assert not prefixes.put("edge-0", b"picture", entry)
    assert prefixes.kv_bytes == 0
