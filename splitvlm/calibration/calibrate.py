"""Learns what a model's codec needs from pictures without labels: `splitvlm calibrate MODEL [--images DIR]`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from splitvlm.bundle import open_bundle
from splitvlm.calibration.entropy_model_training import STEPS
from splitvlm.calibration.level_training import learn
from splitvlm.calibration.sensitivity import sensitivity
from splitvlm.codec.calibration_file import FILE, write
from splitvlm.codec.klt import Basis, transform_of
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.prompt import Template, template_of
from splitvlm.domain import IMAGE, TOKENS, Cut, CutKind
from splitvlm.errors import UsageError
from splitvlm.model.boundary import HIDDEN
from splitvlm.model.loading import load_device, middle_cuts
from splitvlm.model.parts import DevicePart
from splitvlm.model.pictures import open_picture
from splitvlm.model.prompt import Prompt
from splitvlm.node.process_pool import worker_pool
from splitvlm.scenes.samples import samples

QUESTIONS = (
    "What is in the picture?",
    "List everything that you can see:\n1.",
    'Answer in JSON, such as {"objects": [{"name": "car", "count": 2}], "indoors": false}.',
    "Read out all text in the picture, word for word, with its punctuation; say NONE if there is none.",
    "How many people are there? Answer with a number.",
    "Somebody who cannot see this picture asks you to describe the scene, its light and its mood in a few sentences.",
    "def count(image, kind):\n    # returns how many objects of that kind the image shows\n    return",
    "Under the licence below, may this picture be copied, changed and distributed without fee, and on which conditions?",
)
"""Questions of several kinds of text, asked in turn about a folder's pictures: states of the language model that were learned
from one kind alone cost more bits with others (docs/experiments/codec-calibrated.md)."""
OTHER_QUESTIONS = ("how many?", "Is it day", "7", "(a) or b")
"""That begin and end differently: what their prompts have in common is the model's template."""
SEED = 10_000  # of the drawn pictures: others than those of profiles
Array = np.ndarray[Any, Any]
MOST_TOKENS = 240_000  # that entropy models are learned from: what more of them gain is below a percent
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
TOKENS_PER_CHANNEL = 4  # fewer make a covariance of noise
LANGUAGE_UNIT = 0.104
"""The unit of transforms at `lm:k`: what is lost there reaches the answer through fewer layers that could mend it, and tokens
of text bear less than a picture's many alike ones. Chosen on SmolLM2-135M (docs/experiments/codec-calibrated.md)."""


def calibrate(
    model: str, images: Path | None, number: int, workers: int = 1, steps: int = STEPS, folder: Path | None = None
) -> Path:
    """Learns the levels of the middle cuts and of `tokens` from so many pictures; returns the file in the model's bundle.

    `steps` are those of the training of each network. `folder` is the bundle; None is the user's own. Raises UsageError.
    """
    bundle = open_bundle(model, folder, to_write=True)
    cuts = [cut for cut in middle_cuts(model) if cut != IMAGE]
    part = load_device(model, [max(cuts, key=lambda cut: cut.depth)])
    asked = list(_in_folder(images, number) if images else samples(number, model, seed=SEED))
    if not asked:
        raise UsageError(f"{images} holds no pictures.", advice=f"They end in {', '.join(SUFFIXES)}.")
    template = _template(part, asked[0][0])
    bases = {}
    for cut in cuts:
        features = [part.lower(Prompt.about(*request), cut).boundary[HIDDEN].float().numpy() for request in asked]
        unit = LANGUAGE_UNIT if cut.kind is CutKind.LM else 1.0
        stride = _stride(part, cut, features[0], asked[0])
        bases[cut] = _basis(features, stride, sensitivity(model, asked, cut), unit, template, workers, steps)
    with bundle.replacing(FILE) as path:
        write(path, bases)
    return bundle.prepare() / FILE


def _template(part: DevicePart, image: Image.Image) -> Template:
    asked = [Prompt.about(image, question) for question in (QUESTIONS[0], *OTHER_QUESTIONS)]
    return template_of([part.prompt_ids(prompt).tolist() for prompt in asked], len(part.processor.tokenizer))


def _stride(part: DevicePart, cut: Cut, features: Array, request: tuple[Image.Image, str]) -> int:
    """Returns how many tokens a row of the picture's grid has, as they stand at the cut."""
    if cut.kind is CutKind.LM:  # the visual tokens stand in the prompt as they stand at `tokens`
        features = part.lower(Prompt.about(*request), TOKENS).boundary[HIDDEN].numpy()
    return _row(features.shape[-2])


def _basis(
    features: Sequence[Array], stride: int, sensitivity_CC: Array, unit: float, template: Template, workers: int,
    steps: int,
) -> Basis:  # fmt: skip
    stacked = [array.reshape(-1, array.shape[-1]) for array in features]
    x_NC = np.concatenate(stacked) if stacked else np.empty((0, 1), np.float32)
    if len(x_NC) < TOKENS_PER_CHANNEL * x_NC.shape[1]:
        raise UsageError(
            f"{len(stacked)} pictures are too few: they give {len(x_NC)} tokens for {x_NC.shape[1]} channels.",
            advice="Give more pictures.",
        )
    transform = transform_of(x_NC, sensitivity_CC, unit)
    seen = stacked[: max(1, MOST_TOKENS * len(stacked) // len(x_NC))]
    with worker_pool(workers) as pool:
        learning = {level: pool.submit(learn, seen, transform, level, stride, steps=steps) for level in KLT_STEPS}
        levels = {level: future.result() for level, future in learning.items()}
    shapes = {array.shape[:-1] for array in features}
    return Basis(transform, levels, shapes.pop() if len(shapes) == 1 else (), template)


def _row(num_tokens: int) -> int:
    """Returns how many tokens a row of a square grid has; of another grid no rows are known, and neighbours stand beside a
    token.
    """
    side = math.isqrt(num_tokens)
    return side if side * side == num_tokens else 1


def _in_folder(folder: Path, number: int) -> Iterator[tuple[Image.Image, str]]:
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", advice="Name a folder of pictures.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return ((open_picture(path), question) for path, question in zip(files[:number], cycle(QUESTIONS), strict=False))
