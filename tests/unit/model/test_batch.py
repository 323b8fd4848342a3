"""Decoding many answers in one pass: what neighbours contain changes nothing, bit for bit; that there are some, no token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from PIL import Image, ImageOps

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, CutKind
from splitvlm.model.batch.arena import GROWTH_ROWS, CacheArena, rows_held
from splitvlm.model.batch.decoder import BatchedDecoder, DecodingRow, capacity_of
from splitvlm.model.language import LayerCache
from splitvlm.model.loading import load_cloud, load_device
from splitvlm.model.parts import CloudPart, DevicePart, LowerRun
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
NUM_TOKENS = 10
NUM_SEQUENCES = 40
TOLERANCE = 2e-4  # of logits in float32, whose spread is about 1: other shapes sum in another order


@cache
def parts(family: str) -> tuple[DevicePart, CloudPart]:
    folder = tiny_model(family)
    return load_device(folder, [DEVICE], threads=1), load_cloud(folder, [IMAGE], threads=1)


@cache
def undivided(family: str, index: int) -> list[int]:
    return list(parts(family)[0].generate(picture(64 + 8 * index, 64), QUESTIONS[index], NUM_TOKENS))


def begun(family: str, cut: Cut, index: int, max_new_tokens: int = NUM_TOKENS) -> tuple[UpperRun, LowerRun]:
    device, cloud = parts(family)
    lower = device.lower(picture(64 + 8 * index, 64), QUESTIONS[index], cut)
    run = cloud.upper(cut, lower.boundary, max_new_tokens)
    run.first()
    return run, lower


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_that_join_and_leave_at_random_have_the_undivided_model_s_tokens(family: str) -> None:
    source, decoder = random.Random(family), BatchedDecoder(parts(family)[1])
    waiting = [(source.choice(CUTS), source.randrange(len(QUESTIONS))) for _ in range(NUM_SEQUENCES)]
    running: dict[DecodingRow, tuple[LowerRun, int, Cut, list[int]]] = {}
    finished = 0
    while waiting or running:
        while waiting and (not running or source.random() < 0.6):
            cut, index = waiting.pop()
            run, lower = begun(family, cut, index)
            running[decoder.add(run)] = (lower, index, cut, [run.last_token_id])
        for row in [row for row in running if source.random() < 0.02]:  # given up in the middle
            decoder.remove(row)
            del running[row]
        fed = {
            row: lower.step(row.run.last_token_id) if cut.kind is CutKind.LM else None
            for row, (lower, _, cut, _) in running.items()
            if source.random() < 0.9 and not row.run.finished  # a device may be late
        }
        for row, logits_V in zip(fed, decoder.step(fed) if fed else (), strict=True):
            running[row][3].append(row.run.choose(logits_V))
        for row in [row for row in running if row.run.finished]:
            _, index, cut, token_ids = running.pop(row)
            assert token_ids == undivided(family, index), str(cut)
            decoder.remove(row)
            finished += 1
    assert finished > NUM_SEQUENCES / 2


def logits_beside(family: str, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Returns the logits of question 0 after three passes beside the same question about other pictures."""
    device, cloud = parts(family)
    decoder = BatchedDecoder(cloud)
    rows = []
    for image in (picture(64, 64), *pictures):
        run = cloud.upper(TOKENS, device.lower(image, QUESTIONS[0], TOKENS).boundary, NUM_TOKENS)
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
