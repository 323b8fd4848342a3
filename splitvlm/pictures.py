"""Sample pictures and questions for measuring: drawn scenes, enlarged to what a camera would give the model."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from splitvlm.scenes import TRAINED_DOMAINS, ask, draw

CAMERA_EDGE_PX = 512


def samples(number: int, model: str, *, seed: int = 0) -> Iterator[tuple[Image.Image, str]]:
    """`number` pictures, each with a question. The embedded model gets its own size, others a camera's."""
    for index in range(number):
        scene = draw(TRAINED_DOMAINS[index % len(TRAINED_DOMAINS)], seed + index)
        picture = scene.image
        if model != "scenes":
            picture = picture.resize((CAMERA_EDGE_PX, CAMERA_EDGE_PX), Image.Resampling.BICUBIC)
        yield picture, ask(scene, seed + index, n=1)[0].text
