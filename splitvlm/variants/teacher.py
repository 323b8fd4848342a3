"""Makes what a tower is taught by: tiles of unlabelled pictures, and the visual tokens that the parent's tower makes of them.

    N tiles, V visual tokens of a tile, D their width

Errors are measured by `Teacher.loss`: the squared error of the tokens relative to their spread, and the same in the directions
on which the parent's answers depend (their Fisher information, splitvlm.calibration.sensitivity). A tower that has learned the
tokens alone spends itself on directions that no answer needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from splitvlm.calibration.sensitivity import sensitivity
from splitvlm.errors import UsageError
from splitvlm.evaluation.answers import read
from splitvlm.files.pictures import to_rgb
from splitvlm.model.families import family_of
from splitvlm.model.families.idefics3 import Idefics3
from splitvlm.model.loading import load_whole
from splitvlm.node.progress import Progress
from splitvlm.scenes.samples import samples

FIRST_SEED = 20_000_000  # of the drawn pictures: others than those of profiles and calibrations
SEEDS_A_RUN = 1_000_000
ASKED = 48  # pictures by whose answers directions are weighed
BATCH = 24  # tiles that the parent sees at once
SPREAD_SHARE = 0.02  # of the plain error, where the answers count


@dataclass(frozen=True)
class Teacher:
    """Holds tiles [N, 3, H, W] and the parent's visual tokens [N, V, D], both float16, and the metric [D, D] of errors."""

    tiles_NCHW: torch.Tensor
    tokens_NVD: torch.Tensor
    metric_DD: torch.Tensor
    answers_DD: torch.Tensor  # the part of the metric that is the answers' alone

    def for_answers(self) -> Teacher:
        """Returns a teacher that asks for little more of the tokens than the answers need."""
        return replace(self, metric_DD=self.answers_DD + SPREAD_SHARE * (self.metric_DD - self.answers_DD))

    def loss(self, tokens_BVD: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
        """Returns the error of the tokens that a tower made of the tiles of these numbers: 0 is the parent's."""
        error_BVD = tokens_BVD.float() - self.tokens_NVD[tiles].to(tokens_BVD.device).float()
        return (error_BVD @ self.metric_DD.to(error_BVD.device) * error_BVD).sum(-1).mean()

    def batch(self, tiles: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Returns some tiles as float32 on a device."""
        return self.tiles_NCHW[tiles].to(device).float()


def load_parent(name: str, device: str = "cpu") -> tuple[Any, Any]:
    """Loads the whole parent and its processor. Raises UsageError for a tower that cannot be taught here."""
    model, processor = load_whole(name, device=device)
    if not isinstance(family_of(model.config.model_type, name), Idefics3):
        raise UsageError(
            f"The vision tower of {name} is not one that can be pruned or taught here.",
            advice="Take a model of the families SmolVLM or Idefics3; other kinds of variant do not train.",
        )
    return model, processor


def tower_tokens(model: Any, tiles_NCHW: torch.Tensor) -> torch.Tensor:
    """Returns the visual tokens [N, V, D] of tiles, by the model's own tower and connector."""
    states_NPD = model.model.vision_model(pixel_values=tiles_NCHW).last_hidden_state
    tokens_NVD: torch.Tensor = model.model.connector(states_NPD)
    return tokens_NVD


def ask_teacher(
    name: str, model: Any, processor: Any, data: Path | None, number: int, seed: int, progress: Progress
) -> Teacher:
    """Shows so many pictures to the parent: those of a file of questions, or drawn ones. Raises UsageError."""
    asked = list(_pictures(name, data, number, seed))
    if not asked:
        raise UsageError(f"{data} holds no pictures.", advice="Name a file with a picture on each line.")
    tiles, tokens = [], []
    for start in range(0, len(asked), BATCH):
        batch_NCHW = seen_tiles(processor, [image for image, _ in asked[start : start + BATCH]])
        with torch.inference_mode():
            tokens.append(tower_tokens(model, batch_NCHW.to(model.device)).half().cpu())
        tiles.append(batch_NCHW.half())
        progress(min(start + BATCH, len(asked)), len(asked))
    tokens_NVD = torch.cat(tokens)
    fisher_DD = torch.from_numpy(sensitivity(name, asked[:ASKED])).float()
    return Teacher(torch.cat(tiles), tokens_NVD, *metrics(tokens_NVD, fisher_DD))


def metrics(tokens_NVD: torch.Tensor, fisher_DD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns M [D, D] and its part by the answers: the mean of e' M e is 2 where a tower always gives the mean token."""
    tokens = tokens_NVD.flatten(0, 1).float()
    centred = tokens - tokens.mean(0)
    covariance_DD = centred.T @ centred / len(centred)
    in_answers = torch.trace(fisher_DD @ covariance_DD)
    answers_DD = fisher_DD / in_answers
    return answers_DD + torch.eye(len(fisher_DD)) / torch.trace(covariance_DD), answers_DD


def seen_tiles(processor: Any, images: list[Image.Image]) -> torch.Tensor:
    """Returns the tiles [N, 3, H, W] that the processor makes of pictures, without those that hold padding."""
    made = processor.image_processor(images=[[image] for image in images], return_tensors="pt")
    tiles_NCHW: torch.Tensor = made["pixel_values"].flatten(0, 1)
    mask_NHW = made["pixel_attention_mask"].flatten(0, 1)
    whole_N = mask_NHW.flatten(1).all(1) & tiles_NCHW.flatten(1).any(1)
    return tiles_NCHW[whole_N]


def _pictures(name: str, data: Path | None, number: int, seed: int) -> Iterator[tuple[Image.Image, str]]:
    if data is None:
        return samples(number, name, seed=FIRST_SEED + seed * SEEDS_A_RUN)
    distinct = {id(example.image): example for example in read(data)}
    return ((to_rgb(example.image), example.question) for example in islice(distinct.values(), number))
