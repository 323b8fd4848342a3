"""Drawn scenes as sample pictures for measuring, enlarged to what a camera would give, and as what the embedded model knows."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from splitvlm.scenes import TRAINED_DOMAINS, ask, draw
from splitvlm.scenes.familiarity import warning

CAMERA_EDGE_PX = 512


def samples(number: int, model: str, *, seed: int = 0) -> Iterator[tuple[Image.Image, str]]:
    """Yields `number` pictures, each with a question. The embedded model gets its own size, others a camera's."""
    for index in range(number):
        scene = draw(TRAINED_DOMAINS[index % len(TRAINED_DOMAINS)], seed + index)
        picture = scene.image
        if model != "scenes":
            picture = picture.resize((CAMERA_EDGE_PX, CAMERA_EDGE_PX), Image.Resampling.BICUBIC)
        yield picture, ask(scene, seed + index, n=1)[0].text


def warning_about(model: str, picture: Image.Image) -> str:
    """Returns what to tell about a picture unlike those that the model was trained on.

    Empty where nobody can say that it is.
    """
    return warning(picture) if model == "scenes" else ""
