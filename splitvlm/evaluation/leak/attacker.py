"""An attacker who turns features back into pictures, patch by patch, having seen pairs of both.

It knows the model and the codec, and pictures of the same kind as those that it attacks; it sees what reaches the cloud node.
Every token of a square grid gives its own patch of the picture, from its features and those of its eight neighbours, by
ridge regression; besides, from random rectified features of them (Rahimi and Recht, "Random Features for Large-Scale
Kernel Machines", NIPS 2007), which see what is not linear. Of both, and of several ridges, that one is used which restores
pictures best that the regression has not seen. G x G tokens of C channels, patches of P pixels (three colours each).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

RANDOM_UNITS: Final = 2048
RIDGES: Final = (1e-4, 1e-2, 1.0, 30.0)  # of the mean eigenvalue
HELD_BACK: Final = 8  # of so many pictures one chooses, the others train
LIFTS: Final = ("linear", "random")


@dataclass(frozen=True, slots=True, eq=False)
class Attacker:
    """Holds the regression that was learned for one cut and level."""

    lift: str
    projection: F32  # [9C, U] of the random features
    mean: F32  # [9C]
    spread: F32  # [9C]
    weights: F32  # [features + 1, 3P]
    edge: int  # pixels of the picture

    def picture(self, features_TC: F32) -> npt.NDArray[np.uint8]:
        """Returns the pixels [edge, edge, 3], uint8, that it makes of a picture's tokens in rows."""
        inputs = _lifted(_normed(around(features_TC), self.mean, self.spread), self.lift, self.projection)
        patches = inputs @ self.weights
        return _levels(unpatched(patches, self.edge))


def train(features: Sequence[F32], pictures: Sequence[npt.NDArray[np.uint8]], seed: int = 0) -> Attacker:
    """Learns from the tokens [T, C] and the square pixels [edge, edge, 3] of the same pictures, at least HELD_BACK of them."""
    edge, grid = pictures[0].shape[0], side(features[0])
    rows = np.concatenate([around(features_TC) for features_TC in features[:64]])
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    draw = np.random.default_rng(seed)
    width = rows.shape[1]
    units = min(RANDOM_UNITS, len(features) * grid**2)  # more than there are tokens would only fit noise
    projection = (draw.normal(size=(width, units)) / np.sqrt(width)).astype(np.float32)
    best: tuple[float, Attacker] | None = None
    for lift in LIFTS:

        def pairs(numbers: Iterable[int], lift: str = lift) -> Iterator[tuple[F32, F32]]:
            for n in numbers:
                inputs = _lifted(_normed(around(features[n]), mean, spread), lift, projection)
                yield inputs, patched(pictures[n] / 255, grid)

        training = (n for n in range(len(features)) if n % HELD_BACK)
        error, weights = _fitted(*_moments(pairs(training)), pairs(range(0, len(features), HELD_BACK)))
        if best is None or error < best[0]:
            best = error, Attacker(lift, projection, mean, spread, weights, edge)
    assert best is not None
    return best[1]


def _fitted(gram: F64, moments: F64, held_back: Iterable[tuple[F32, F32]]) -> tuple[float, F32]:
    """Returns the error on what the regression has not seen, and the weights, of the ridge with the least error.

    All ridges have the same eigenvectors, in which each of them is a division: only the best one's weights are turned back.
    """
    values, vectors = np.linalg.eigh(gram)
    turned = vectors.T @ moments
    shrunk = [turned / (np.maximum(values, 0) + ridge * values.mean())[:, None] for ridge in RIDGES]
    errors = np.zeros(len(RIDGES))
    for inputs, wanted in held_back:
        turned_inputs = inputs @ vectors
        errors += [np.square(_levels(turned_inputs @ weights) / 255 - wanted).mean() for weights in shrunk]
    best = int(errors.argmin())
    return float(errors[best]), (vectors @ shrunk[best]).astype(np.float32)


def side(features_TC: F32) -> int:
    """Returns G, the tokens in a row of the square. Raises ValueError where the tokens form no square."""
    grid = int(np.sqrt(len(features_TC)))
    if grid * grid != len(features_TC):
        raise ValueError(f"{len(features_TC)} tokens form no square")
    return grid


def around(features_TC: F32) -> F32:
    """Returns [T, 9C]: each token and its neighbours; beyond the edge stands the edge."""
    grid, channels = side(features_TC), features_TC.shape[1]
    padded = np.pad(features_TC.reshape(grid, grid, channels), ((1, 1), (1, 1), (0, 0)), mode="edge")
    shifted = [padded[y : y + grid, x : x + grid] for y in range(3) for x in range(3)]
    return np.concatenate(shifted, axis=2).reshape(grid * grid, 9 * channels).astype(np.float32)


def patched(picture: npt.NDArray[Any], grid: int) -> F32:
    """Returns patches [T, 3P] from [edge, edge, 3]."""
    size = picture.shape[0] // grid
    tiles = picture.reshape(grid, size, grid, size, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles.reshape(grid * grid, -1), np.float32)


def unpatched(patches: F32, edge: int) -> F32:
    """Returns the picture [edge, edge, 3] of patches [T, 3P]."""
    grid = int(np.sqrt(len(patches)))
    size = edge // grid
    return patches.reshape(grid, grid, size, size, 3).transpose(0, 2, 1, 3, 4).reshape(edge, edge, 3)


def psnr(picture: npt.NDArray[np.uint8], original: npt.NDArray[np.uint8]) -> float:
    """Returns the peak signal-to-noise ratio in dB; 99 for equal pictures."""
    error = np.square(picture.astype(np.float64) - original).mean()
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(picture: npt.NDArray[np.uint8], original: npt.NDArray[np.uint8], window: int = 8) -> float:
    """Returns the structural similarity of luminance (Wang et al., 2004), over windows side by side; 1 for equal pictures."""
    a, b = (_windows(pixels, window) for pixels in (picture, original))
    mean_a, mean_b = a.mean(axis=1), b.mean(axis=1)
    covariance = ((a - mean_a[:, None]) * (b - mean_b[:, None])).mean(axis=1)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(top / ((mean_a**2 + mean_b**2 + c1) * (a.var(axis=1) + b.var(axis=1) + c2))))


def _windows(picture: npt.NDArray[np.uint8], window: int) -> F64:
    grey: F64 = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    rows, columns = (size // window for size in grey.shape)
    tiles = grey[: rows * window, : columns * window].reshape(rows, window, columns, window)
    return tiles.transpose(0, 2, 1, 3).reshape(rows * columns, window * window)


def _normed(rows: F32, mean: F32, spread: F32) -> F32:
    normed: F32 = (rows - mean) / spread
    return normed


def _lifted(rows: F32, lift: str, projection: F32) -> F32:
    """Returns the regression's inputs, with a 1 at the end of each row."""
    if lift == "random":
        centre = rows.shape[1] // 9
        rows = np.concatenate([np.maximum(rows @ projection, 0), rows[:, 4 * centre : 5 * centre]], axis=1)
    return np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)


def _levels(values: F32 | F64) -> npt.NDArray[np.uint8]:
    """Returns pixels for values from 0 to 1."""
    return np.clip(np.rint(255 * values), 0, 255).astype(np.uint8)


def _moments(pairs: Iterable[tuple[F32, F32]]) -> tuple[F64, F64]:
    gram: Any = 0.0
    moments: Any = 0.0
    for inputs, wanted in pairs:
        gram = gram + (inputs.T @ inputs).astype(np.float64)
        moments = moments + (inputs.T @ wanted).astype(np.float64)
    return gram, moments
