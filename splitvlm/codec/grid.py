"""Orders a boundary's tokens for coding, and knows their neighbours and their places in the picture.

Tokens are coded like a checkerboard, first those of one colour, then those between them: of the columns that look at
neighbours in themselves (entropy_model.py), the second half knows all four. In a sequence without rows every other token
is first.
T tokens, in the order of coding unless said otherwise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

WAVES: Final = 4  # cosines of a token's row, and of its column
PLACES: Final = 2 * WAVES
LARGEST_INPUT: Final = 56  # of what a network is told (entropy_model.py)


@dataclass(frozen=True, slots=True, eq=False)
class TokenGrid:
    """Holds where each token stands in the picture's grid, and in which order tokens are coded."""

    order: Index  # [T]: each token's number in its picture
    num_first: int  # tokens of the first pass
    neighbours: Index  # [4, T]: the tokens before, after, above and below; T where there is none
    places: F32  # [PLACES, T], whole numbers; [0, T] where tokens have no place that is known beforehand


def offsets(stride: int) -> tuple[int, ...]:
    """Returns where a token's neighbours stand in the numbering of tokens. Rows run on into each other: that is learned."""
    return -1, 1, -stride, stride


def rows_in(sizes: Iterable[int], stride: int) -> int:
    """Returns the rows in a picture of so many tokens, where all are square grids or several such tiles; else 0: unknown."""
    return stride if stride > 1 and all(size % stride**2 == 0 for size in sizes) else 0


@functools.lru_cache(maxsize=16)  # 80 bytes a token
def grid_of(num_tokens: int, stride: int, rows: int) -> TokenGrid:
    """Makes the grid of so many tokens, `stride` a row; `rows` of them a picture, 0 where that is not known."""
    numbers = np.arange(num_tokens)
    # Those above and beside are of the other colour: in rows of odd length without further ado.
    second = (numbers if stride % 2 else numbers + numbers // stride) % 2
    order = np.argsort(second, kind="stable")
    coded_as = np.empty(num_tokens, np.intp)
    coded_as[order] = numbers
    wanted = order + np.array(offsets(stride))[:, None]
    there = (wanted >= 0) & (wanted < num_tokens)
    neighbours = np.where(there, coded_as.take(wanted, mode="clip"), num_tokens) if num_tokens else wanted
    return TokenGrid(order, int(num_tokens - second.sum()), neighbours, places_of(num_tokens, stride, rows)[:, order])


@functools.lru_cache(maxsize=16)
def places_of(num_tokens: int, stride: int, rows: int) -> F32:
    """Returns [PLACES, T] of tokens as they are numbered, -56 to 56; [0, T] without rows."""
    numbers = np.arange(num_tokens)
    if not rows:
        return np.zeros((0, num_tokens), np.float32)
    return np.concatenate((_waves(rows)[:, numbers // stride % rows], _waves(stride)[:, numbers % stride]))


def _waves(size: int) -> F32:
    """Returns [WAVES, size], whole numbers.

    Both sides round alike: a cosine of these angles is rational only where 56 times it is whole (Niven), and no other lies
    as near to a half as a mathematical library may err.
    """
    table = [
        [round(LARGEST_INPUT * math.cos(math.pi * wave * (2 * index + 1) / (2 * size))) for index in range(size)]
        for wave in range(1, WAVES + 1)
    ]
    return np.array(table, np.float32)
