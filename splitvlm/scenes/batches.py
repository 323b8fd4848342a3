"""Training batches: pictures drawn for them, grids of what stands where, and questions packed behind one prefix.

One picture's visual prefix serves several questions: `prefix | question, answer | question, answer | ...`. A question
sees the prefix and itself, never its neighbours, and its positions start anew after the prefix.

Shapes: B pictures, L packed tokens, P prefix tokens, C classes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from splitvlm.scenes import aerial, microscopy, road
from splitvlm.scenes.network import PATCH_GRID, TOKEN_GRID, VISUAL_TOKENS
from splitvlm.scenes.questions import TRAINED, ask, draw, training_seed
from splitvlm.scenes.scene import EDGE, Question, Scene
from splitvlm.scenes.tokenizer import BOS, EOS, FAKE, GLOBAL, IMAGE

LABELS = (*microscopy.LABELS, *aerial.LABELS, *road.LABELS)  # the classes of the grids
QUESTIONS_A_PICTURE = 10
COUNTING = ("cells", "infected cells", "red cells", "other cells", "houses", "red roofs", "pedestrians", "cars")
WEIGHTS = {**dict.fromkeys(COUNTING, 3.0), "cells": 5.0, "red cells": 4.0, "houses": 4.0, "domain": 0.3, "absent": 1.5}
WEIGHTS |= {"caption": 4.0, "position": 4.0, "comparison": 10.0}  # position with 1: left from right in 85 % only
BESIDES_A_PICTURE = 5  # left or right of another landmark: what is learned last
RECODED_SHARE = 0.3  # of pictures that go through JPEG, as on one of the system's plans
PREFIX = f"{BOS}User:{FAKE}{GLOBAL}{IMAGE * VISUAL_TOKENS}{FAKE}"
ASIDE = -100  # label of tokens without loss
NEAR_TOKENS = 4


@dataclass(frozen=True)
class Batch:
    """pixels uint8 (B, 256, 256, 3); ids, positions, labels (B, L); mask bool (B, 1, L, L); grids (B, cells, C).

    places, differences float32 (B, L): see `places_of`; NaN where a token has no such lesson.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    patch_grid: torch.Tensor
    token_grid: torch.Tensor
    places: torch.Tensor
    differences: torch.Tensor


class Batches(Dataset[Batch]):
    """Item i is batch i, a pure function of (seed, i): a run that was stopped goes on with the same data."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int, batch: int, steps: int) -> None:
        self.tokenizer, self.seed, self.batch, self.steps = tokenizer, seed, batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([11, self.seed, step])
        scenes = []
        for place in range(self.batch):
            index = step * self.batch + place
            scenes.append(draw(TRAINED[index % len(TRAINED)], training_seed(self.seed, index)))
        questions = [asked(scene, rng) for scene in scenes]
        packed = [pack(self.tokenizer, some) for some in questions]
        pixels = np.stack([np.asarray(recoded(s.image, rng)) for s in scenes])
        ids, positions, labels, mask = stack(packed, self.tokenizer.pad_token_id)
        lessons = np.full((2, *ids.shape), np.nan, np.float32)
        names = landmark_ids(self.tokenizer)
        for row, (scene, one, some) in enumerate(zip(scenes, packed, questions, strict=True)):
            lessons[:, row, : len(one.ids)] = places_of(scene, one, some, names)
        return Batch(
            torch.from_numpy(pixels),
            ids,
            positions,
            labels,
            mask,
            patch_grid=torch.from_numpy(np.stack([grid(s, PATCH_GRID) for s in scenes])),
            token_grid=torch.from_numpy(np.stack([grid(s, TOKEN_GRID) for s in scenes])),
            places=torch.from_numpy(lessons[0]),
            differences=torch.from_numpy(lessons[1]),
        )


def asked(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """The questions about one picture of a lesson: as `ask` draws them, and more of the relation that is learned last."""
    questions = ask(scene, rng, QUESTIONS_A_PICTURE, WEIGHTS)
    if scene.domain == aerial.NAME:
        questions += [question for _ in range(BESIDES_A_PICTURE) for question in aerial.beside(rng, scene)]
    return questions


@dataclass(frozen=True)
class Packed:
    """One picture's tokens: ids, positions, labels (all of one length), and the block of each (0: the prefix)."""

    ids: list[int]
    positions: list[int]
    labels: list[int]
    blocks: list[int]


def pack(tokenizer: PreTrainedTokenizerBase, questions: list[Question]) -> Packed:
    """The prefix and the questions one after another; the label of a token is the token that should follow it."""
    prefix = tokenizer.encode(PREFIX, add_special_tokens=False)
    packed = Packed(list(prefix), list(range(len(prefix))), [ASIDE] * len(prefix), [0] * len(prefix))
    for block, question in enumerate(questions, start=1):
        asked = tokenizer.encode(f"{question.text}{EOS}\nAssistant:", add_special_tokens=False)
        answer = tokenizer.encode(f" {question.answer}{EOS}", add_special_tokens=False)
        tokens = [*asked, *answer[:-1]]
        packed.ids.extend(tokens)
        packed.positions.extend(range(len(prefix), len(prefix) + len(tokens)))
        packed.labels.extend([ASIDE] * (len(asked) - 1) + answer)
        packed.blocks.extend([block] * len(tokens))
    return packed


def landmark_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The token of each landmark's name, which is one word."""
    return {tokenizer.encode(f" {name}", add_special_tokens=False)[0]: name for name in aerial.LANDMARKS}


def places_of(scene: Scene, packed: Packed, questions: list[Question], names: dict[int, str]) -> np.ndarray:
    """float32 (2, L): the abscissa of each landmark that is named, at its name; what a second one's is more than the
    first's, from its name on for NEAR_TOKENS. From -1 to 1, and -2 to 2; NaN elsewhere.

    Left of and right of need both at once: from answers alone the language model stays at chance for thousands of steps.
    """
    abscissa = {thing.name: 2 * thing.x / EDGE - 1 for thing in scene.things if thing.name in aerial.LANDMARKS}
    lessons = np.full((2, len(packed.ids)), np.nan, np.float32)
    seen: dict[int, float] = {}
    for place, (token, block) in enumerate(zip(packed.ids, packed.blocks, strict=True)):
        x = abscissa.get(names.get(token, ""))
        if x is None or not block:
            continue
        lessons[0, place] = x
        if block in seen and questions[block - 1].kind == "comparison":
            end = place + NEAR_TOKENS
            lessons[1, place:end] = np.where(np.array(packed.blocks[place:end]) == block, x - seen[block], np.nan)
        seen.setdefault(block, x)
    return lessons


def stack(packed: list[Packed], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, positions, labels (B, L), and the mask (B, 1, L, L): True where a token (row) sees another (column)."""
    longest = (max(len(p.ids) for p in packed) + 31) // 32 * 32  # few lengths: each may be compiled anew
    rows = []
    for values, filler in (("ids", pad), ("positions", 0), ("labels", ASIDE), ("blocks", -1)):
        rows.append(torch.tensor([getattr(p, values) + [filler] * (longest - len(p.ids)) for p in packed]))
    ids, positions, labels, blocks = rows
    order = torch.arange(longest)
    alike = (blocks[:, :, None] == blocks[:, None, :]) | (blocks[:, None, :] == 0)
    return ids, positions, labels, (alike & (order[:, None] >= order[None, :]))[:, None]


def grid(scene: Scene, cells: int) -> np.ndarray:
    """float32 (cells², C): 1 where a thing of the class stands.

    The tower's grid is filled as far as things reach; in the tokens' grid a thing that is no broader than a cell has
    one cell, that of its middle, so that a sum over the grid is a count.
    """
    marks = np.zeros((cells, cells, len(LABELS)), dtype=np.float32)
    middles = (np.arange(cells) + 0.5) * EDGE / cells
    for thing in scene.things:
        label = LABELS.index(thing.label)
        marks[int(thing.y * cells / EDGE), int(thing.x * cells / EDGE), label] = 1
        if cells > TOKEN_GRID or thing.radius > EDGE / TOKEN_GRID / 1.2:
            away = (middles[None, :] - thing.x) ** 2 + (middles[:, None] - thing.y) ** 2
            marks[away < (0.9 * thing.radius) ** 2, label] = 1
    return marks.reshape(cells * cells, -1)


def recoded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture, for some after JPEG of a random quality."""
    if rng.random() > RECODED_SHARE:
        return image
    store = io.BytesIO()
    image.save(store, "JPEG", quality=int(rng.integers(35, 93)))
    return Image.open(store).convert("RGB")
