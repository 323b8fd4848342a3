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
from splitvlm.scenes.scene import EDGE, Scene, SceneQuestion
from splitvlm.scenes.tokenizer import BOS, EOS, FAKE, GLOBAL, IMAGE

LABELS = (*microscopy.LABELS, *aerial.LABELS, *road.LABELS)  # the classes of the grids
QUESTIONS_A_PICTURE = 10
COUNTING = ("cells", "infected cells", "red cells", "other cells", "houses", "red roofs", "pedestrians", "cars")
WEIGHTS = {**dict.fromkeys(COUNTING, 3.0), "cells": 5.0, "red cells": 4.0, "houses": 4.0, "domain": 0.3, "absent": 1.5}
WEIGHTS |= {"caption": 4.0, "position": 4.0, "comparison": 10.0}  # position with 1: left from right in 85 % only
BESIDES_A_PICTURE = 5  # left or right of another landmark: what is learned last
RECODED_SHARE = 0.3  # of pictures that go through JPEG, as on one of the system's plans
PREFIX = f"{BOS}User:{FAKE}{GLOBAL}{IMAGE * VISUAL_TOKENS}{FAKE}"
IGNORED_LABEL = -100  # of tokens without loss (torch's `ignore_index`)
NEAR_TOKENS = 4


@dataclass(frozen=True)
class Batch:
    """Holds pixels uint8 (B, 256, 256, 3); ids, position_ids, labels (B, L); mask bool (B, 1, L, L); grids (B, cells, C).

    x_positions and x_differences, float32 (B, L), are regression targets (see `position_targets`), NaN where a token has none.
    """

    pixels: torch.Tensor
    ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    patch_grid: torch.Tensor
    token_grid: torch.Tensor
    x_positions: torch.Tensor
    x_differences: torch.Tensor


class Batches(Dataset[Batch]):
    """Draws item i as batch i, a pure function of (seed, i), so that a run that was stopped goes on with the same data."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int, batch: int, steps: int) -> None:
        self.tokenizer, self.seed, self.batch, self.steps = tokenizer, seed, batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([11, self.seed, step])
        scenes = []
        for index in range(step * self.batch, (step + 1) * self.batch):
            scenes.append(draw(TRAINED[index % len(TRAINED)], training_seed(self.seed, index)))
        questions = [training_questions(scene, rng) for scene in scenes]
        packed = [pack(self.tokenizer, scene_questions) for scene_questions in questions]
        pixels = np.stack([np.asarray(recoded(scene.image, rng)) for scene in scenes])
        ids, position_ids, labels, mask = stack(packed, self.tokenizer.pad_token_id)
        targets = np.full((2, *ids.shape), np.nan, np.float32)
        names = landmark_ids(self.tokenizer)
        for row, (scene, tokens, scene_questions) in enumerate(zip(scenes, packed, questions, strict=True)):
            targets[:, row, : len(tokens.ids)] = position_targets(scene, tokens, scene_questions, names)
        return Batch(
            torch.from_numpy(pixels),
            ids,
            position_ids,
            labels,
            mask,
            patch_grid=torch.from_numpy(np.stack([grid(scene, PATCH_GRID) for scene in scenes])),
            token_grid=torch.from_numpy(np.stack([grid(scene, TOKEN_GRID) for scene in scenes])),
            x_positions=torch.from_numpy(targets[0]),
            x_differences=torch.from_numpy(targets[1]),
        )


def training_questions(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Draws the questions about one picture of a batch: those of `ask`, and more of the relation that is learned last."""
    questions = ask(scene, rng, QUESTIONS_A_PICTURE, WEIGHTS)
    if scene.domain == aerial.NAME:
        questions += [question for _ in range(BESIDES_A_PICTURE) for question in aerial.beside(rng, scene)]
    return questions


@dataclass(frozen=True)
class PackedQuestions:
    """Holds one picture's tokens: ids, position_ids, labels (all of one length), and the block of each (0: the prefix)."""

    ids: list[int]
    position_ids: list[int]
    labels: list[int]
    blocks: list[int]


def pack(tokenizer: PreTrainedTokenizerBase, questions: list[SceneQuestion]) -> PackedQuestions:
    """Packs the prefix and the questions one after another; the label of a token is the token that should follow it."""
    prefix = tokenizer.encode(PREFIX, add_special_tokens=False)
    packed = PackedQuestions(list(prefix), list(range(len(prefix))), [IGNORED_LABEL] * len(prefix), [0] * len(prefix))
    for block, question in enumerate(questions, start=1):
        question_ids = tokenizer.encode(f"{question.text}{EOS}\nAssistant:", add_special_tokens=False)
        answer_ids = tokenizer.encode(f" {question.answer}{EOS}", add_special_tokens=False)
        tokens = [*question_ids, *answer_ids[:-1]]
        packed.ids.extend(tokens)
        packed.position_ids.extend(range(len(prefix), len(prefix) + len(tokens)))
        packed.labels.extend([IGNORED_LABEL] * (len(question_ids) - 1) + answer_ids)
        packed.blocks.extend([block] * len(tokens))
    return packed


def landmark_ids(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Returns the landmarks' names by their token ids; each name is one token."""
    return {tokenizer.encode(f" {name}", add_special_tokens=False)[0]: name for name in aerial.LANDMARKS}


def position_targets(
    scene: Scene, packed: PackedQuestions, questions: list[SceneQuestion], names: dict[int, str]
) -> np.ndarray:
    """Returns float32 (2, L), NaN where a token has no target.

    Row 0 holds, at each landmark's name, its x position (-1 to 1). Row 1 holds, from a second landmark's name on for
    NEAR_TOKENS, how much larger its x is than the first's (-2 to 2). "Left of" and "right of" need both at once: from
    answers alone the language model stays at chance for thousands of steps.
    """
    x_by_name = {thing.name: 2 * thing.x / EDGE - 1 for thing in scene.things if thing.name in aerial.LANDMARKS}
    targets = np.full((2, len(packed.ids)), np.nan, np.float32)
    first_x: dict[int, float] = {}
    for index, (token, block) in enumerate(zip(packed.ids, packed.blocks, strict=True)):
        x = x_by_name.get(names.get(token, ""))
        if x is None or not block:
            continue
        targets[0, index] = x
        if block in first_x and questions[block - 1].kind == "comparison":
            end = index + NEAR_TOKENS
            targets[1, index:end] = np.where(np.array(packed.blocks[index:end]) == block, x - first_x[block], np.nan)
        first_x.setdefault(block, x)
    return targets


def stack(packed: list[PackedQuestions], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns ids, position_ids, labels (B, L), and the mask (B, 1, L, L): True where a token (row) sees another (column)."""
    longest = (max(len(p.ids) for p in packed) + 31) // 32 * 32  # few lengths: each may be compiled anew
    rows = []
    for values, filler in (("ids", pad), ("position_ids", 0), ("labels", IGNORED_LABEL), ("blocks", -1)):
        rows.append(torch.tensor([getattr(p, values) + [filler] * (longest - len(p.ids)) for p in packed]))
    ids, position_ids, labels, blocks = rows
    order = torch.arange(longest)
    alike = (blocks[:, :, None] == blocks[:, None, :]) | (blocks[:, None, :] == 0)
    return ids, position_ids, labels, (alike & (order[:, None] >= order[None, :]))[:, None]


def grid(scene: Scene, cells: int) -> np.ndarray:
    """Returns float32 (cells², C): 1 where a thing of the class stands.

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
    """Returns the picture, a RECODED_SHARE of them after JPEG of a random quality."""
    if rng.random() > RECODED_SHARE:
        return image
    store = io.BytesIO()
    image.save(store, "JPEG", quality=int(rng.integers(35, 93)))
    return Image.open(store).convert("RGB")
