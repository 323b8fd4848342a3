"""Learns what a model's codec needs from pictures without labels: `splitvlm calibrate MODEL [--images DIR]`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from splitvlm.codec.calibration import FILE, write
from splitvlm.codec.codec import Codec
from splitvlm.codec.klt import Basis, basis_of
from splitvlm.domain import TOKENS
from splitvlm.errors import UsageError
from splitvlm.model.boundary import HIDDEN
from splitvlm.model.loading import load_device, model_file, model_folder
from splitvlm.model.pictures import open_picture
from splitvlm.model.sensitivity import sensitivity
from splitvlm.pictures import samples

QUESTION = "What is in the picture?"
SEED = 10_000  # of the drawn pictures: others than those of profiles
Array = np.ndarray[Any, Any]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TOKENS_PER_CHANNEL = 4  # fewer make a covariance of noise


def codec_of(model: str) -> Codec:
    """The model's codec, with its calibration where there is one. Raises UsageError."""
    return Codec.from_file(model_file(model, FILE))


def calibrate(model: str, images: Path | None, number: int) -> Path:
    """Learn the basis at `tokens` from so many pictures, and write it beside the weights. Raises UsageError."""
    folder = model_folder(model)
    if folder is None:
        raise UsageError(f"{model} has no folder to keep a calibration in.", advice="Save it to a folder first.")
    part = load_device(model, [TOKENS])
    asked = list(_in_folder(images, number) if images else samples(number, model, seed=SEED))
    features = [part.lower(*one, TOKENS).boundary[HIDDEN].float().numpy() for one in asked]
    path = folder / FILE
    write(path, {TOKENS: _basis(features, sensitivity(model, asked))})
    return path


def _basis(features: Iterable[Array], sensitivity_CC: Array) -> Basis:
    stacked = [one.reshape(-1, one.shape[-1]) for one in features]
    x_NC = np.concatenate(stacked) if stacked else np.empty((0, 1), np.float32)
    if len(x_NC) < TOKENS_PER_CHANNEL * x_NC.shape[1]:
        raise UsageError(
            f"{len(stacked)} pictures are too few: they give {len(x_NC)} tokens for {x_NC.shape[1]} channels.",
            advice="Give more pictures.",
        )
    return basis_of(x_NC, sensitivity_CC)


def _in_folder(folder: Path, number: int) -> Iterator[tuple[Image.Image, str]]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", advice="Name a folder of pictures.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return ((open_picture(path), QUESTION) for path in files[:number])
