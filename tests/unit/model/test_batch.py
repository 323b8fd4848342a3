"""Decoding many answers in one pass: what neighbours contain changes nothing, bit for bit; that there are some, no token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from PIL import Image, ImageOps

from splitvlm.domain import DEVICE, GREEDY, IMAGE, TOKENS, Cut, CutKind, Sampling
from splitvlm.model.batch.arena import GROWTH_ROWS, CacheArena, rows_held
from splitvlm.model.batch.decoder import BatchedDecoder, DecodingRow, capacity_of
from splitvlm.model.language import LayerCache
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.parts import CloudPart, DevicePart, LowerRun
from splitvlm.model.prompt import Prompt
from splitvlm.model.upper_run import UpperRun
from tests.samples import tiny_model
from tests.tiny_models import FAMILIES, picture

CUTS = [Cut.parse(text) for text in ("vision:1", "tokens", "lm:1", "lm:2")]
QUESTIONS = [
    "What is it?",
    "How many cells are infected, and where are they in this picture?",
    "a",
    "Is there a lake here?",
]
SAMPLINGS = [GREEDY, Sampling(temperature=1.2, top_p=0.95, top_k=200, seed=7), Sampling(temperature=0.8, seed=2**40)]
NUM_TOKENS = 10
NUM_SEQUENCES = 40
TOLERANCE = 2e-4  # of logits in float32, whose spread is about 1: other shapes sum in another order


@cache
def parts(family: str) -> tuple[DevicePart, CloudPart]:
    folder = tiny_model(family)
    return load_device(folder, [DEVICE], threads=1), load_cloud(folder, [IMAGE], threads=1)


@dataclass(frozen=True)
class Question:
    """One of a few questions about a picture of its own, at a cut, with a way to choose tokens."""

    family: str
    cut: Cut
    index: int
    sampling: Sampling = GREEDY

    def begin(self) -> tuple[UpperRun, LowerRun]:
        device, cloud = parts(self.family)
        lower = device.lower(Prompt.about(picture(64 + 8 * self.index, 64), QUESTIONS[self.index]), self.cut)
        return cloud.upper(self.cut, lower.boundary, NUM_TOKENS, self.sampling), lower

    @property
    def expected(self) -> list[int]:
        """What the undivided model answers."""
        return undivided(self.family, self.index, self.sampling)


@cache
def undivided(family: str, index: int, sampling: Sampling) -> list[int]:
    image = picture(64 + 8 * index, 64)
    return list(parts(family)[0].generate(Prompt.about(image, QUESTIONS[index]), NUM_TOKENS, sampling=sampling))


class Crowd:
    """Sequences that join, leave and are given up at random; some prompts are read in chunks beside them, as an engine does."""

    def __init__(self, family: str) -> None:
        self.source = random.Random(family)
        self.decoder = BatchedDecoder(parts(family)[1])
        self.waiting = [
            Question(
                family,
                self.source.choice(CUTS),
                self.source.randrange(len(QUESTIONS)),
                self.source.choice(SAMPLINGS),
            )
            for _ in range(NUM_SEQUENCES)
        ]
        self.running: dict[DecodingRow, tuple[Question, LowerRun, list[int]]] = {}
        self.read: tuple[Question, UpperRun, LowerRun] | None = None  # whose prompt is read in chunks now
        self.finished: list[Question] = []
        self.num_chunks = 0

    def run(self) -> None:
        while self.waiting or self.running or self.read:
            while self.waiting and (not self.running or self.source.random() < 0.6):
                self._begin(self.waiting.pop())
            self._give_some_up()
            self._pass()
            for row in [row for row in self.running if row.run.finished]:
                question, _, token_ids = self.running.pop(row)
                assert token_ids == question.expected, str(question)
                self.decoder.remove(row)
                self.finished.append(question)

    def _begin(self, question: Question) -> None:
        run, lower = question.begin()
        if run.reads_in_chunks and self.read is None:
            run.prepare()
            self.read = question, run, lower
        else:
            self._join(question, run, lower, run.first())

    def _join(self, question: Question, run: UpperRun, lower: LowerRun, token_id: int) -> None:
        self.running[self.decoder.add(run)] = question, lower, [token_id]

    def _give_some_up(self) -> None:
        for row in [row for row in self.running if self.source.random() < 0.02]:
            self.decoder.remove(row)
            del self.running[row]
        if self.read and self.source.random() < 0.02:
            self.read = None

    def _pass(self) -> None:
        fed = {
            row: lower.step(row.run.last_token_id) if question.cut.kind is CutKind.LM else None
            for row, (question, lower, _) in self.running.items()
            if self.source.random() < 0.9 and not row.run.finished  # a device may be late
        }
        chunk = self.read[1].next_chunk(self.source.randrange(1, 40)) if self.read else None
        logits_BV = self.decoder.step(fed, chunk) if fed or chunk else ()
        for row, logits_V in zip(fed, logits_BV, strict=False):
            self.running[row][2].append(row.run.choose(logits_V))
        if self.read and chunk:
            question, run, lower = self.read
            self.num_chunks += 1
            if not run.num_unread:
                self.read = None
                self._join(question, run, lower, run.first_of(logits_BV[-1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_that_join_and_leave_at_random_have_the_undivided_model_s_tokens(family: str) -> None:
    """Greedy and sampled ones, at all kinds of cut, with prompts that are read whole and in chunks, in one run."""
    crowd = Crowd(family)
    crowd.run()
    assert len(crowd.finished) > NUM_SEQUENCES / 2
    assert {question.sampling for question in crowd.finished} == set(SAMPLINGS)
    assert (crowd.num_chunks > 10) == parts(family)[1].family.causal


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_marked_causal_where_no_token_sees_a_later_one(family: str) -> None:
    """What an image's last token holds changes nothing of the tokens before it, those of the same image among them."""
    device, cloud = parts(family)
    prompt = cloud.embedded_prompt(TOKENS, device.lower(Prompt.about(picture(64, 64), QUESTIONS[0]), TOKENS).boundary)
    last = int((prompt["ids"] == cloud.model.config.image_token_id).nonzero()[-1])
    changed_TD = prompt["hidden"].clone()
    changed_TD[last] *= -1

    def states(hidden_TD: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return cloud.language_run(0, cloud.spec.lm_layers, ends=True).prefill(prompt | {"hidden": hidden_TD})

    before, after = states(prompt["hidden"]), states(changed_TD)
    assert not torch.allclose(before[last:], after[last:], atol=TOLERANCE)
    assert torch.allclose(before[:last], after[:last], atol=TOLERANCE) == cloud.family.causal


@pytest.mark.parametrize("cut", [TOKENS, Cut.parse("lm:1")], ids=str)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gemma3"])
def test_a_prompt_in_chunks_leaves_what_a_whole_one_leaves(family: str, cut: Cut) -> None:
    question = Question(family, cut, 1)
    whole, _ = question.begin()
    token_id = whole.first()
    expected = whole.hand_over()
    for num_tokens in (1, 7, 1_000):
        run, _ = question.begin()
        assert run.reads_in_chunks
        run.prepare()
        decoder = BatchedDecoder(parts(family)[1])
        while run.num_unread:
            logits_BV = decoder.step({}, run.next_chunk(num_tokens))
        assert run.first_of(logits_BV[-1]) == token_id
        cache = run.hand_over()
        assert (cache.length, cache.offset) == (expected.length, expected.offset)
        for layer, other in zip(cache.layers, expected.layers, strict=True):
            assert torch.allclose(layer.keys, other.keys, atol=TOLERANCE)
            assert torch.allclose(layer.values, other.values, atol=TOLERANCE)


def logits_beside(family: str, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Returns the logits of question 0 after three passes beside the same question about other pictures."""
    device, cloud = parts(family)
    decoder = BatchedDecoder(cloud)
    rows = []
    for image in (picture(64, 64), *pictures):
        run = cloud.upper(TOKENS, device.lower(Prompt.about(image, QUESTIONS[0]), TOKENS).boundary, NUM_TOKENS)
        run.first()
        rows.append(decoder.add(run))
    for _ in range(3):
        logits_BV = decoder.step(dict.fromkeys(rows))
        for row, logits_V in zip(rows, logits_BV, strict=True):
            row.run.choose(logits_V)
    return logits_BV[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_neighbours_contain_changes_nothing_bit_for_bit(family: str) -> None:
    image = picture(64, 64)
    beside_one = logits_beside(family, [image, ImageOps.invert(image)])
    beside_other = logits_beside(family, [ImageOps.flip(image), ImageOps.solarize(image)])
    assert torch.equal(beside_one, beside_other)
    assert torch.allclose(beside_one, logits_beside(family, []), atol=TOLERANCE)


def test_rows_keep_what_they_hold_while_others_come_and_go() -> None:
    arena, source = CacheArena(8), random.Random(1)
    held: list[float] = []
    for _ in range(300):
        if held and source.random() < 0.45:
            row = source.randrange(len(held))
            assert arena.remove(row) == len(held) - 1
            held[row] = held[-1]
            held.pop()
        else:
            value = float(source.randrange(1, 1_000))
            layer = LayerCache(torch.full((1, 2, 3, 4), value), torch.full((1, 2, 3, 4), -value), first=2)
            assert arena.add([layer, layer]) == len(held)
            held.append(value)
        for row, value in enumerate(held):
            for keys, values in zip(arena.keys, arena.values, strict=True):
                assert torch.equal(keys[row, :, 2:5], torch.full((2, 3, 4), value))
                assert torch.equal(values[row, :, 2:5], torch.full((2, 3, 4), -value))
                assert not keys[row, :, 5:].any(), "a row is cleared before it is used again"
        assert not arena.keys or len(arena.keys[0]) == rows_held(len(held))


def test_a_row_s_nan_does_not_outlive_its_sequence() -> None:
    arena = CacheArena(8)
    spoiled = LayerCache(torch.full((1, 1, 8, 2), torch.nan), torch.full((1, 1, 8, 2), torch.nan))
    arena.add([spoiled])
    arena.remove(0)
    arena.add([LayerCache(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2))])
    assert not torch.isnan(arena.keys[0][0]).any()


def test_capacities_are_powers_of_two_and_rows_come_by_four() -> None:
    assert [capacity_of(count) for count in (1, 128, 129, 512, 513)] == [128, 128, 256, 512, 1024]
    assert [rows_held(count) for count in (0, 1, 4, 5)] == [0, GROWTH_ROWS, GROWTH_ROWS, 2 * GROWTH_ROWS]
