"""A picture to the tiles that an exported stage takes: every pixel as the family's own processor makes it.

    N tiles, H, W pixels of a tile (squares)

Source: transformers models/idefics3/image_processing_pil_idefics3.py, whose sizes and order of steps these are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from splitvlm.exported.device_file import PictureSteps

F32 = npt.NDArray[np.float32]
LONGEST_PX = 4096  # of a picture, whatever is asked for


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Tells into how many tiles a picture is divided, beside the whole one; 0 by 0 where it is one tile itself."""

    rows: int
    columns: int


def shrunk(picture: Image.Image, steps: PictureSteps) -> Image.Image:
    """Returns the RGB picture after the processor's first step, which makes its longer side `longest_edge`."""
    return _resized(picture, *_fitted(picture.width, picture.height, steps.longest_edge), steps)


def grid_of(width: int, height: int, steps: PictureSteps) -> TileGrid:
    """Returns the tiles of a picture of that size, without a pixel of it."""
    if not steps.divided:
        return TileGrid(0, 0)
    width, height = _in_whole_tiles(*_fitted(width, height, steps.longest_edge), steps.tile_edge)
    rows, columns = height // steps.tile_edge, width // steps.tile_edge
    return TileGrid(rows, columns) if rows > 1 or columns > 1 else TileGrid(0, 0)


def tiles_of(picture: Image.Image, steps: PictureSteps) -> F32:
    """Returns the pixels [N, 3, H, W] of an RGB picture's tiles, row by row, the whole picture as the last."""
    edge = steps.tile_edge
    picture = shrunk(picture, steps)
    if not steps.divided:
        return _normalised([_resized(picture, edge, edge, steps)], steps)
    picture = _resized(picture, *_in_whole_tiles(picture.width, picture.height, edge), steps)
    if (picture.width, picture.height) == (edge, edge):
        return _normalised([picture], steps)
    corners = [(x, y) for y in range(0, picture.height, edge) for x in range(0, picture.width, edge)]
    tiles = [picture.crop((x, y, x + edge, y + edge)) for x, y in corners]
    return _normalised([*tiles, _resized(picture, edge, edge, steps)], steps)


def _fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """Returns the size whose longer side is `longest`, at most LONGEST_PX; the shorter side is even, rounded up."""
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        width, height = int(longest * ratio), longest
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > LONGEST_PX:
        width, height = LONGEST_PX, int(LONGEST_PX / ratio)
    elif height > width and height > LONGEST_PX:
        width, height = int(LONGEST_PX * ratio), LONGEST_PX
    return max(width, 1), max(height, 1)


def _in_whole_tiles(width: int, height: int, edge: int) -> tuple[int, int]:
    """Returns the size rounded up to whole tiles, the longer side first."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / edge) * edge
        return width, math.ceil(int(width / ratio) / edge) * edge
    height = math.ceil(height / edge) * edge
    return math.ceil(int(height * ratio) / edge) * edge, height


def _resized(picture: Image.Image, width: int, height: int, steps: PictureSteps) -> Image.Image:
    return picture.resize((width, height), resample=steps.resample)


def _normalised(tiles: list[Image.Image], steps: PictureSteps) -> F32:
    mean_311, std_311 = (np.array(values, np.float32)[:, None, None] for values in (steps.mean, steps.std))
    pixels_NCHW = np.empty((len(tiles), 3, steps.tile_edge, steps.tile_edge), np.float32)
    for index, tile in enumerate(tiles):
        values_CHW = np.asarray(tile).transpose(2, 0, 1)
        scaled_CHW = (values_CHW.astype(np.float64) * steps.scale).astype(np.float32)
        pixels_NCHW[index] = (scaled_CHW - mean_311) / std_311
    return pixels_NCHW
