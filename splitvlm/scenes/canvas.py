"""Brushes that every domain draws with: smooth fields, blobs, placement, and a camera at the end.

Colours are RGB triples of 0..255. Shapes are drawn by Pillow; texture, light and noise are added to the whole picture
as numpy arrays, so that a picture costs a few milliseconds.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from splitvlm.scenes.scene import EDGE

Colour = tuple[float, float, float]
Floats = NDArray[np.float32]
_BANK_EDGE = 1024  # edge of the stored noise, from which each picture takes windows


@cache
def _noise_bank() -> Floats:
    """Returns normal noise of deviation 1, drawn once: a window at a random place is a fresh-looking sheet of grain."""
    return np.random.default_rng(20260).standard_normal((_BANK_EDGE, _BANK_EDGE), dtype=np.float32)


def grain(rng: np.random.Generator, edge: int = EDGE) -> Floats:
    """Returns (edge, edge) pixel noise of deviation 1."""
    row, column = rng.integers(0, _BANK_EDGE - edge, 2)
    return _noise_bank()[row : row + edge, column : column + edge]


def field(rng: np.random.Generator, cells: int) -> Floats:
    """Returns (256, 256) smooth noise of deviation about 1 with about `cells` humps a side."""
    coarse = Image.fromarray(np.ascontiguousarray(grain(rng, cells + 2)))
    return np.asarray(coarse.resize((EDGE, EDGE), Image.Resampling.BICUBIC), dtype=np.float32)


def ground(rng: np.random.Generator, low: Colour, high: Colour, cells: int, rough: float) -> Image.Image:
    """Returns a textured sheet between two colours: `cells` humps a side, and `rough` (levels) of finer mottling."""
    share = np.clip(0.5 + 0.35 * field(rng, cells), 0, 1)[..., None]
    mottle = rough * field(rng, 50)
    sheet = np.asarray(low, np.float32) * (1 - share) + np.asarray(high, np.float32) * share + mottle[..., None]
    return Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8))


def tint(rng: np.random.Generator, colour: Colour, spread: float) -> tuple[int, int, int]:
    """Returns the colour moved by up to `spread` levels a channel, and a common brightness."""
    moved = np.asarray(colour) + rng.uniform(-spread, spread, 3) + rng.uniform(-spread, spread)
    red, green, blue = np.clip(moved, 0, 255).astype(int).tolist()
    return red, green, blue


def shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    """Returns the colour, brighter or darker by `factor`, clipped to 0..255."""
    red, green, blue = (int(min(255, max(0, c * factor))) for c in colour)
    return red, green, blue


def blob(rng: np.random.Generator, x: float, y: float, radius: float, wobble: float) -> list[tuple[float, float]]:
    """Returns the outline of a rounded shape: a circle with three low harmonics of relative size `wobble`."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    reach = np.ones_like(angle)
    for harmonic in (2, 3, 5):
        reach += wobble * rng.uniform(-1, 1) / harmonic * 2 * np.sin(harmonic * angle + rng.uniform(0, 6.3))
    xs, ys = x + radius * reach * np.cos(angle), y + radius * reach * np.sin(angle)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def turned_box(x: float, y: float, width: float, height: float, angle: float) -> list[tuple[float, float]]:
    """Returns the corners of a box of that size around (x, y), turned by `angle` radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    corners = [(-width / 2, -height / 2), (width / 2, -height / 2), (width / 2, height / 2), (-width / 2, height / 2)]
    return [(float(x + cos * u - sin * v), float(y + sin * u + cos * v)) for u, v in corners]


def disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: tuple[int, int, int]) -> None:
    """Draws a filled circle around (x, y); lengths are in pixels."""
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def is_free(occupied: list[tuple[float, float, float]], x: float, y: float, radius: float, gap: float) -> bool:
    """Tells whether a circle there keeps `gap` pixels from all circles (x, y, radius) in `occupied`."""
    return all((x - u) ** 2 + (y - v) ** 2 >= (radius + r + gap) ** 2 for u, v, r in occupied)


def place(
    rng: np.random.Generator,
    occupied: list[tuple[float, float, float]],
    radius: float,
    gap: float,
    bounds: tuple[float, float, float, float] = (0, 0, EDGE, EDGE),
    tries: int = 80,
) -> tuple[float, float] | None:
    """Finds a free centre for a circle of `radius`, `gap` pixels from all circles (x, y, radius) in `occupied`, and adds it.

    None where `tries` random places were all too near something.
    """
    left, top, right, bottom = bounds
    xs = rng.uniform(left + radius, right - radius, tries)
    ys = rng.uniform(top + radius, bottom - radius, tries)
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        if is_free(occupied, x, y, radius, gap):
            occupied.append((x, y, radius))
            return x, y
    return None


def photograph(rng: np.random.Generator, picture: Image.Image, light: float = 1.0) -> Image.Image:
    """Returns the picture as a camera would give it: lens blur, uneven light, exposure, colour cast, sensor noise."""
    soft = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.45, 0.9)))
    values = np.asarray(soft, dtype=np.float32)
    gain = light * rng.uniform(0.88, 1.1) * (1 + 0.05 * field(rng, 2))
    cast = rng.uniform(0.96, 1.04, 3).astype(np.float32)
    noise = rng.uniform(1.5, 4.0) * grain(rng)
    values = values * (gain[..., None] * cast) + noise[..., None]
    return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))
