"""What every engine keeps (cloud_node/engine/protocol.py), whatever runs inside. A new engine is one more entry of ENGINES.

The reference is the undivided model's own answer. Tests take turns through the seam only: no engine's inside is touched.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import pytest
import torch

from cloud_node.engine.lane import Lane
from cloud_node.engine.protocol import Engine, Sequence, SequenceRequest
from cloud_node.engine.recent import RecentMean
from cloud_node.engine.torch_engine import TorchEngine
from splitvlm.domain import DEVICE, GREEDY, IMAGE, TOKENS, Cut, CutKind, Sampling
from splitvlm.errors import PrefixEvicted, ProtocolError, UsageError
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.parts import CloudPart, DevicePart, LowerRun
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import TokenChoice
from tests.samples import tiny_model
from tests.tiny_models import FAMILIES, picture

ENGINES: dict[str, Callable[[CloudPart], Engine]] = {
    "torch": lambda part: TorchEngine(part, 2**26, lambda between: Lane("torch", RecentMean(1.0), between=between)),
}
CUTS = [Cut.parse(text) for text in ("image", "vision:1", "tokens", "lm:1")]
NUM_TOKENS = 6
QUESTION, OTHER_QUESTION = "How many cells are infected?", "Is there a lake?"
IMAGE_OF_TILES = picture(90, 60)
DRAWN = Sampling(temperature=1.2, top_p=0.95, top_k=200, seed=2**63 + 5)


@cache
def parts(family: str) -> tuple[DevicePart, CloudPart]:
    folder = tiny_model(family)
    return load_device(folder, [DEVICE], threads=1), load_cloud(folder, [IMAGE], threads=1)


@cache
def undivided(family: str, question: str = QUESTION, sampling: Sampling = GREEDY) -> list[int]:
    return list(parts(family)[0].generate(Prompt.about(IMAGE_OF_TILES, question), NUM_TOKENS, sampling=sampling))


@dataclass
class Asked:
    """One question as it comes to an engine: the request, and the device's run that the steps of `lm:k` come from."""

    request: SequenceRequest
    lower: LowerRun | None = None

    @property
    def steps(self) -> bool:
        return self.request.cut.kind is CutKind.LM


def asked(family: str, cut: Cut, question: str = QUESTION, **changes: Any) -> Asked:
    device, cloud = parts(family)
    if cut == IMAGE:
        lower, inputs = None, cloud.inputs(Prompt.about(device.picture(IMAGE_OF_TILES), question))
    else:
        lower = device.lower(Prompt.about(IMAGE_OF_TILES, question), cut)
        inputs = lower.boundary
    request = SequenceRequest(device="edge-1", cut=cut, inputs=inputs, max_new_tokens=NUM_TOKENS)
    return Asked(replace(request, **changes), lower)


async def answer(engine: Engine, question: Asked) -> list[int]:
    """Runs a sequence to its end."""
    sequence = engine.start(question.request)
    try:
        await sequence.prefill()
        return await rest(sequence, question)
    finally:
        sequence.cancel()


async def rest(sequence: Sequence, question: Asked) -> list[int]:
    token_ids = list[int]()
    for token_id in question.request.resume_token_ids:
        feed(sequence, question, token_id)
    async for token_id in sequence:
        token_ids.append(token_id)
        feed(sequence, question, token_id)
    assert sequence.finished
    return token_ids


def feed(sequence: Sequence, question: Asked, token_id: int) -> None:
    if question.steps and not sequence.finished:
        assert question.lower is not None
        sequence.feed(partial(question.lower.step, token_id))


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest) -> Callable[[CloudPart], Engine]:
    return ENGINES[request.param]


@pytest.fixture
async def engine(make: Callable[[CloudPart], Engine]) -> AsyncIterator[Engine]:
    """An engine of one family, for what no family changes."""
    engine = make(parts("scenes-like")[1])
    yield engine
    assert engine.close()


@pytest.mark.parametrize("family", FAMILIES)
async def test_tokens_are_those_of_the_undivided_model_at_every_cut(
    make: Callable[[CloudPart], Engine], family: str
) -> None:
    engine = make(parts(family)[1])
    for cut in CUTS:
        assert await answer(engine, asked(family, cut)) == undivided(family), str(cut)
    assert engine.close()


@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_an_answer_goes_on_after_the_tokens_that_another_node_gave(engine: Engine, cut: Cut) -> None:
    expected = undivided("scenes-like")
    for taken in (1, NUM_TOKENS - 2):
        question = asked("scenes-like", cut, resume_token_ids=tuple(expected[:taken]))
        assert await answer(engine, question) == expected[taken:]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_sampled_answer_is_that_of_the_undivided_model_at_every_cut(
    make: Callable[[CloudPart], Engine], family: str
) -> None:
    expected = undivided(family, sampling=DRAWN)
    assert expected != undivided(family), "it is drawn"
    engine = make(parts(family)[1])
    for cut in CUTS:
        assert await answer(engine, asked(family, cut, sampling=DRAWN)) == expected, str(cut)
    assert engine.close()


@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_a_sampled_answer_goes_on_with_the_tokens_that_would_have_come(engine: Engine, cut: Cut) -> None:
    expected = undivided("scenes-like", sampling=DRAWN)
    for taken in (1, NUM_TOKENS - 2):
        question = asked("scenes-like", cut, sampling=DRAWN, resume_token_ids=tuple(expected[:taken]))
        assert await answer(engine, question) == expected[taken:]


async def test_neighbours_change_no_draw(engine: Engine) -> None:
    samplings = [replace(DRAWN, seed=seed) for seed in range(4)] + [GREEDY, Sampling(repetition_penalty=1.3)]
    answers = await asyncio.gather(
        *(answer(engine, asked("scenes-like", TOKENS, sampling=sampling)) for sampling in samplings)
    )
    assert answers == [undivided("scenes-like", sampling=sampling) for sampling in samplings]
    assert len({tuple(token_ids) for token_ids in answers}) >= 5, "another seed is another answer"


async def test_a_repetition_penalty_needs_the_prompt_s_ids(engine: Engine) -> None:
    penalised = Sampling(repetition_penalty=1.3)
    with pytest.raises(UsageError, match="lm:k"):
        await answer(engine, asked("scenes-like", Cut.parse("lm:1"), sampling=penalised))
    assert await answer(engine, asked("scenes-like", TOKENS)) == undivided("scenes-like")


@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_neighbours_change_no_token(engine: Engine, cut: Cut) -> None:
    questions = [
        asked("scenes-like", near, text, device=f"edge-{number % 2}")
        for number, (near, text) in enumerate([(cut, QUESTION), (TOKENS, OTHER_QUESTION), (cut, OTHER_QUESTION)] * 2)
    ]
    answers = await asyncio.gather(*(answer(engine, question) for question in questions))
    one, other = undivided("scenes-like"), undivided("scenes-like", OTHER_QUESTION)
    assert answers == [one, other, other] * 2


@pytest.mark.parametrize("cut", [IMAGE, TOKENS], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
async def test_another_question_goes_on_from_the_prefix(
    make: Callable[[CloudPart], Engine], family: str, cut: Cut
) -> None:
    device, cloud = parts(family)
    engine, prompt = make(cloud), Prompt.about(IMAGE_OF_TILES, OTHER_QUESTION)
    first = engine.start(asked(family, cut, keep_prefix=True).request)
    prefix = await first.prefill()
    first.cancel()
    assert prefix is not None
    assert prefix.num_bytes > 0
    for _ in range(2):  # and leaves it as it was
        inputs = cloud.inputs(prompt) if cut == IMAGE else {"ids": device.prompt_ids(prompt)}
        again = asked(family, cut, prefix=prefix, inputs=inputs)
        assert await answer(engine, again) == undivided(family, OTHER_QUESTION)
    assert engine.close()


async def test_a_picture_may_be_kept_whose_answer_is_one_token(engine: Engine) -> None:
    sequence = engine.start(asked("scenes-like", TOKENS, keep_prefix=True, max_new_tokens=1).request)
    assert await sequence.prefill() is not None
    assert [token_id async for token_id in sequence] == undivided("scenes-like")[:1]
    sequence.cancel()


async def test_what_nobody_asked_to_keep_is_not_kept(engine: Engine) -> None:
    for question in (asked("scenes-like", TOKENS), asked("scenes-like", Cut.parse("lm:1"), keep_prefix=True)):
        sequence = engine.start(question.request)
        assert await sequence.prefill() is None
        sequence.cancel()


async def test_a_prompt_that_does_not_begin_as_the_prefix_is_refused(engine: Engine) -> None:
    first = engine.start(asked("scenes-like", TOKENS, keep_prefix=True).request)
    prefix = await first.prefill()
    first.cancel()
    ids = asked("scenes-like", TOKENS).request.inputs["ids"].clone()
    ids[0] += 1
    with pytest.raises(PrefixEvicted):
        await answer(engine, asked("scenes-like", TOKENS, prefix=prefix, inputs={"ids": ids}))


@pytest.mark.parametrize("cut", ["vision:1", "tokens"])
@pytest.mark.parametrize("family", FAMILIES)
async def test_tiles_one_by_one_give_what_they_give_together(
    make: Callable[[CloudPart], Engine], family: str, cut: str
) -> None:
    engine, question = make(parts(family)[1]), asked(family, Cut.parse(cut))
    assert question.lower is not None
    num_tiles = question.lower.num_tiles
    if engine.prefills_by_tile and num_tiles > 1:
        first, *others = [question.lower.tile(index) for index in range(num_tiles)]
        sequence = engine.start(replace(question.request, inputs=first, num_tiles=num_tiles))
        for tile in others:
            await sequence.read_tile(tile)
        await sequence.prefill()
        assert await rest(sequence, question) == undivided(family)
        sequence.cancel()
        wrong = engine.start(replace(question.request, inputs=first, num_tiles=2))
        with pytest.raises(ProtocolError):
            await wrong.read_tile({"hidden": first["hidden"], "ids": first["ids"]})
        wrong.cancel()
    else:  # the session joins them, and starts no sequence by tile
        assert await answer(engine, question) == undivided(family)
    assert engine.close()


BROKEN: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "values that are no numbers": lambda inputs: inputs | {"hidden": torch.full_like(inputs["hidden"], torch.nan)},
    "ids beyond the vocabulary": lambda inputs: inputs | {"ids": inputs["ids"] + 10**6},
    "too few visual tokens": lambda inputs: inputs | {"hidden": inputs["hidden"][:-1]},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
async def test_invalid_inputs_end_their_own_sequence_only(engine: Engine, broken: Callable[..., Any]) -> None:
    good = asked("scenes-like", TOKENS)
    bad = replace(good.request, inputs=broken(dict(good.request.inputs)))
    running = asyncio.create_task(answer(engine, good))
    with pytest.raises(ProtocolError):
        await answer(engine, Asked(bad))
    assert await running == undivided("scenes-like")


async def test_a_step_that_does_not_decode_ends_its_own_sequence_only(engine: Engine) -> None:
    question = asked("scenes-like", Cut.parse("lm:1"))
    sequence = engine.start(question.request)
    await sequence.prefill()
    tokens = aiter(sequence)
    assert await anext(tokens) == undivided("scenes-like")[0]

    def broken() -> Any:
        raise ProtocolError("No boundary.")

    sequence.feed(broken)
    with pytest.raises(ProtocolError, match="No boundary"):
        await anext(tokens)
    sequence.cancel()
    assert await answer(engine, asked("scenes-like", TOKENS)) == undivided("scenes-like")


async def test_a_cancelled_sequence_takes_no_turn_any_more(engine: Engine) -> None:
    question = asked("scenes-like", TOKENS)
    for read in (0, 1, 3):
        sequence = engine.start(question.request)
        if read:
            await sequence.prefill()
        tokens = aiter(sequence)
        assert [await anext(tokens) for _ in range(read)] == undivided("scenes-like")[:read]
        sequence.cancel()
        sequence.cancel()
    await idle(engine)
    begun = engine.jobs
    await asyncio.sleep(0.05)
    assert engine.jobs == begun
    assert await answer(engine, question) == undivided("scenes-like")


async def idle(engine: Engine) -> None:
    async with asyncio.timeout(60):
        while engine.in_work:  # noqa: ASYNC110 (an engine tells nobody when it is idle)
            await asyncio.sleep(0.001)


async def test_a_session_s_own_work_takes_turns_and_keeps_its_error(engine: Engine) -> None:
    result, times = await engine.in_turn("edge-1", lambda: 7)
    assert result == 7
    assert times.queue_s >= 0
    assert times.busy_s >= 0
    with pytest.raises(ZeroDivisionError):
        await engine.in_turn("edge-1", lambda: 1 / 0)
    assert await engine.measure(lambda: 8) == 8
    assert await answer(engine, asked("scenes-like", TOKENS)) == undivided("scenes-like")


async def test_work_that_is_given_up_while_it_waits_never_runs(engine: Engine) -> None:
    go, ran = threading.Event(), list[int]()
    first = asyncio.create_task(engine.in_turn("edge-1", partial(go.wait, 20)))
    await asyncio.sleep(0)
    given_up = asyncio.create_task(engine.in_turn("edge-2", partial(ran.append, 1)))
    await asyncio.sleep(0)
    assert engine.in_work
    given_up.cancel()
    await asyncio.sleep(0)
    go.set()
    await first
    await engine.in_turn("edge-2", partial(ran.append, 2))
    assert ran == [2]


async def test_an_idle_engine_has_no_queue_and_says_what_a_sequence_took(engine: Engine) -> None:
    assert engine.expected_queue_s("edge-1") == 0
    sequence = engine.start(asked("scenes-like", TOKENS).request)
    await sequence.prefill()
    assert sequence.times.prefill_s > 0
    async for _ in sequence:
        pass
    assert sequence.times.tokens_s > 0
    sequence.cancel()
    await idle(engine)
    assert engine.expected_queue_s("edge-1") == 0


async def test_an_answer_ends_at_its_limit(engine: Engine) -> None:
    for limit in (1, 2):
        question = asked("scenes-like", TOKENS, max_new_tokens=limit)
        assert await answer(engine, question) == undivided("scenes-like")[:limit]


async def test_the_memory_of_a_sequence_is_known_by_its_shapes(engine: Engine) -> None:
    begun = engine.jobs
    small, long = (asked("scenes-like", TOKENS, max_new_tokens=limit).request for limit in (1, 500))
    needed = engine.memory_needed(small)
    assert needed.prefill_bytes >= sum(tensor.nbytes for tensor in small.inputs.values())
    assert engine.memory_needed(long).prefill_bytes == needed.prefill_bytes
    assert engine.memory_needed(long).cache_bytes >= needed.cache_bytes
    assert engine.jobs == begun, "nothing ran"


async def test_a_choice_that_fails_ends_its_own_sequence_only(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = TokenChoice.choose
    chosen = Counter[int]()

    def sometimes(self: TokenChoice, logits_V: torch.Tensor) -> int:
        chosen[id(self)] += 1
        if self._sampling.seed == 13 and chosen[id(self)] == 3:
            raise ValueError("broken")
        return choose(self, logits_V)

    monkeypatch.setattr(TokenChoice, "choose", sometimes)
    bad = asked("scenes-like", TOKENS, sampling=Sampling(temperature=1.0, seed=13))
    good = [asked("scenes-like", TOKENS, device=f"edge-{number}") for number in range(3)]
    outcomes = await asyncio.gather(
        answer(engine, bad), *(answer(engine, question) for question in good), return_exceptions=True
    )
    assert isinstance(outcomes[0], Exception)
    assert outcomes[1:] == [undivided("scenes-like")] * 3


async def test_prompts_that_are_given_up_while_they_wait_free_their_memory_and_hold_nobody_up(engine: Engine) -> None:
    sequences = [engine.start(asked("scenes-like", TOKENS, device=f"edge-{number}").request) for number in range(6)]
    prefills = [asyncio.create_task(sequence.prefill()) for sequence in sequences]
    await asyncio.sleep(0)
    for sequence, prefill in zip(sequences[:5], prefills[:5], strict=True):
        prefill.cancel()
        sequence.cancel()
    await prefills[5]
    assert [token_id async for token_id in sequences[5]] == undivided("scenes-like")
    sequences[5].cancel()
    await idle(engine)
    if isinstance(engine, TorchEngine):
        async with asyncio.timeout(60):
            while engine.admission.budget.held_bytes:  # noqa: ASYNC110 (given back in the event loop, after the thread)
                await asyncio.sleep(0.001)
