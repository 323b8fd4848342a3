"""Tiny models of all families (splitvlm/model/tiny_models.py), and pictures to ask them about."""

from __future__ import annotations

import numpy as np
from PIL import Image

from splitvlm.model.tiny_models import FAMILIES, save

__all__ = ["FAMILIES", "picture", "save"]


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coloured blocks under noise."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
    noise = random.integers(-20, 20, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(smooth).astype(np.int64) + noise, 0, 255).astype(np.uint8))
