"""The one protocol of all back ends: pixel values in, visual tokens out, numpy arrays on both sides.

    N tiles, H, W pixels of a tile, V visual tokens of all tiles, D their width

    input          dtype    shape
    pixel_values   float32  [N, 3, H, W]    every pixel is the picture's: there is no mask of padding

Tiles run one after another: on a processor several at once save nothing, and memory stays that of one tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from splitvlm.errors import UsageError

PIXELS = "pixel_values"
TOKENS = "visual_tokens"  # the one output of an exported stage, float32 [N, V of one tile, D]

Precision = Literal[
    "float32", "bfloat16"
]  # in which floating-point numbers compute; int8 is in the file of a quantised stage
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
Arrays = Mapping[str, NDArray[np.generic]]


class Stage(Protocol):
    """Runs the vision tower and the connector."""

    @property
    def backend(self) -> str:
        """Names the back end, as in the catalogue."""

    @property
    def precision(self) -> Precision:
        """Tells in which precision floating-point numbers compute."""

    def run(self, inputs: Arrays) -> NDArray[np.float32]:
        """Returns the visual tokens [V, D] of the tiles, one tile's after another's. Raises UsageError for wrong inputs."""


@dataclass(frozen=True, slots=True)
class StageShape:
    """Tells what a stage takes and gives for one tile."""

    edge_px: tuple[int, int]  # height and width
    tokens: int
    width: int

    def check(self, inputs: Arrays) -> None:
        """Raises UsageError that names the first input that is missing, unknown, or has another dtype or shape."""
        pixels = inputs.get(PIXELS)
        if pixels is None:
            raise _wrong(f"it lacks {PIXELS}")
        _check_array(PIXELS, pixels, np.dtype(np.float32), (len(pixels) if pixels.ndim else 0, 3, *self.edge_px))
        for name in inputs:
            if name != PIXELS:
                raise _wrong(f"{name} is unknown to it")


class TileStage(ABC):
    """Runs tiles one after another; a back end says how one tile runs."""

    def __init__(self, backend: str, precision: Precision, shape: StageShape) -> None:
        self.backend = backend
        self.precision = precision
        self.shape = shape

    def run(self, inputs: Arrays) -> NDArray[np.float32]:
        """Returns the visual tokens [V, D] of the tiles, one tile's after another's. Raises UsageError for wrong inputs."""
        self.shape.check(inputs)
        pixels_NCHW = inputs[PIXELS]
        tokens_VD = np.empty((len(pixels_NCHW) * self.shape.tokens, self.shape.width), dtype=np.float32)
        for tile in range(len(pixels_NCHW)):
            tokens_VD[tile * self.shape.tokens : (tile + 1) * self.shape.tokens] = self._run_tile(
                np.ascontiguousarray(pixels_NCHW[tile : tile + 1])
            )[0]
        return tokens_VD

    @abstractmethod
    def _run_tile(self, pixels_1CHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the visual tokens [1, V, D] of one tile."""


def _check_array(name: str, array: NDArray[np.generic], dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        wanted = f"{dtype} [N, {', '.join(map(str, shape[1:]))}]"
        raise _wrong(f"{name} is {array.dtype} {list(array.shape)} instead of {wanted}")


def _wrong(what: str) -> UsageError:
    return UsageError(f"The stage does not take these inputs: {what}.", advice="Prepare them as its variant says.")
