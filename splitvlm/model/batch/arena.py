"""Keys and values of many sequences, in rows of equal capacity, so that attention reads them without copying.

Shape letters: S rows, H key-value heads, T tokens of a row's capacity, n tokens that a cache holds, d a head's width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from splitvlm.model.language import LayerCache

GROWTH_ROWS = 4  # rows are allocated so many at a time


class CacheArena:
    """Holds rows of `capacity` tokens each. Used rows are always the first ones: the last one moves where one goes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.num_rows = 0
        self.keys: list[torch.Tensor] = []  # [S, H, T, d] of each layer
        self.values: list[torch.Tensor] = []

    @property
    def num_bytes(self) -> int:
        """Returns the bytes of all rows that are allocated."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def add(self, layers: Sequence[LayerCache]) -> int:
        """Copies a sequence's cache into a new row; returns its index."""
        self._resize(self.num_rows + 1, layers)
        row = self.num_rows
        for index, layer in enumerate(layers):
            tokens = slice(layer.first, layer.first + layer.keys.shape[2])
            for rows, new in ((self.keys[index], layer.keys), (self.values[index], layer.values)):
                rows[row].zero_()  # what another sequence left here is masked, but NaN times 0 is NaN
                rows[row, :, tokens] = new[0]
        self.num_rows += 1
        return row

    def remove(self, row: int) -> int:
        """Frees a row. Returns the index of the row that moved into its place: the row's own where it was the last."""
        last = self.num_rows - 1
        if row != last:
            for tensor in (*self.keys, *self.values):
                tensor[row] = tensor[last]
        self.num_rows = last
        self._resize(last, ())
        return last

    def _resize(self, needed: int, layers: Sequence[LayerCache]) -> None:
        """Holds the least multiple of GROWTH_ROWS rows, layer by layer, so that little is held twice."""
        num_rows = rows_held(needed)
        if not self.keys:
            self.keys = [_rows(layer.keys, num_rows, self.capacity) for layer in layers]
            self.values = [_rows(layer.values, num_rows, self.capacity) for layer in layers]
        elif num_rows != len(self.keys[0]):
            for tensors in (self.keys, self.values):
                for index, old in enumerate(tensors):
                    tensors[index] = _rows(old, num_rows, self.capacity)
                    tensors[index][: self.num_rows] = old[: self.num_rows]


def rows_held(num_rows: int) -> int:
    """Returns how many rows are allocated where so many are used."""
    return -(-num_rows // GROWTH_ROWS) * GROWTH_ROWS


def _rows(like_SHTd: torch.Tensor, num_rows: int, capacity: int) -> torch.Tensor:
    return like_SHTd.new_zeros((num_rows, like_SHTd.shape[1], capacity, like_SHTd.shape[3]))
