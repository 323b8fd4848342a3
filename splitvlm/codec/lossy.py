"""A float tensor as groups of codes, with outliers kept apart.

    body     := kind u8 · places(channels apart) · places(tokens apart) · ordinary · channels · tokens
    kind     := bits (low 5) | grouping (high 3)
    ordinary := groups of `bits` bits: what is in no channel and no token apart (quantise.py)
    channels := the channels apart, of the other tokens: groups within a channel, 16 bits          absent if none
    tokens   := the tokens apart, whole: groups within a token, 16 bits                            absent if none

The grouping is chosen per tensor, by the sum of what it costs: bits of scales for each value, and the mean binary
logarithm of the step (one more bit a value would halve the step). Many tokens: a scale for each channel is nearly free.
One token (a decoded token at `lm:k`): groups lie within it.

Shape letters: T tokens, C channels (the last dimension; all others are tokens).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec import outliers, quantise
from splitvlm.codec.header import Cursor, malformed
from splitvlm.codec.levels import APART_BITS, BITS, CHANNEL_GROUP, TOKEN_GROUP

F32 = npt.NDArray[np.float32]

SMALLEST_ELEMENTS: Final = 32
"""Tensors with fewer elements are coded losslessly: their scales would be as long as they are."""
LARGEST_MAGNITUDE: Final = 2.0**120
"""Tensors that exceed it are coded losslessly: on the grid their ends would leave float32."""


class Grouping(IntEnum):
    """Names where the values that share a scale lie."""

    TOKEN = 0
    CHANNEL = 1
    CHANNEL_CENTRED = 2

    @property
    def length(self) -> int:
        """Returns how many values share one scale."""
        return TOKEN_GROUP if self is Grouping.TOKEN else CHANNEL_GROUP

    @property
    def centred(self) -> bool:
        """Tells whether each group's mean is taken off before its values are quantised."""
        return self is Grouping.CHANNEL_CENTRED

    def rows(self, x_TC: F32) -> F32:
        """Returns the array turned so that groups lie along its rows; its own inverse."""
        return x_TC if self is Grouping.TOKEN else np.ascontiguousarray(x_TC.T)


@dataclass(frozen=True, slots=True)
class _FittedGroups:
    grouping: Grouping
    rows_NM: F32
    grid: quantise.QuantisationGrid

    def cost(self) -> float:
        """Bits a value that this grouping costs beyond the codes, up to a constant."""
        scales = self.grid.half_NG.size * (2 if self.grouping.centred else 1)
        return quantise.SCALE_BITS * scales / self.rows_NM.size + self.grid.log_step()

    def encode(self, bits: int) -> bytes:
        return quantise.encode(self.rows_NM, self.grid, self.grouping.length, bits)


def fits(x_TC: F32) -> bool:
    """Tells whether a lossy level may code it; what it may not is coded losslessly."""
    return x_TC.size >= SMALLEST_ELEMENTS and float(np.abs(x_TC).max()) <= LARGEST_MAGNITUDE


def encode(x_TC: F32, bits: int) -> bytes:
    """Returns an array [T, C] that `fits`, as a body."""
    apart = outliers.find(x_TC)
    tokens = outliers.others(apart.tokens, x_TC.shape[0])
    channels = outliers.others(apart.channels, x_TC.shape[1])
    best = min((_fitted(x_TC[np.ix_(tokens, channels)], grouping) for grouping in Grouping), key=_FittedGroups.cost)
    parts = [
        bytes((bits | best.grouping << 5,)),
        outliers.pack_places(apart.channels),
        outliers.pack_places(apart.tokens),
    ]
    parts.append(best.encode(bits))
    if len(apart.channels):
        parts.append(_fitted(x_TC[np.ix_(tokens, apart.channels)], Grouping.CHANNEL).encode(APART_BITS))
    if len(apart.tokens):
        parts.append(_fitted(x_TC[apart.tokens], Grouping.TOKEN).encode(APART_BITS))
    return b"".join(parts)


def decode(cursor: Cursor, num_tokens: int, num_channels: int) -> F32:
    """Returns an array [T, C]. Raises ProtocolError."""
    kind = cursor.byte()
    bits = kind & 31
    if bits not in BITS.values() or kind >> 5 >= len(Grouping):
        malformed("its codes have an unknown kind")
    apart_channels = outliers.read_places(cursor, num_channels)
    apart_tokens = outliers.read_places(cursor, num_tokens)
    tokens = outliers.others(apart_tokens, num_tokens)
    channels = outliers.others(apart_channels, num_channels)
    x_TC = np.empty((num_tokens, num_channels), np.float32)
    x_TC[np.ix_(tokens, channels)] = _decoded(cursor, len(tokens), len(channels), Grouping(kind >> 5), bits)
    if len(apart_channels):
        shape = len(tokens), len(apart_channels)
        x_TC[np.ix_(tokens, apart_channels)] = _decoded(cursor, *shape, Grouping.CHANNEL, APART_BITS)
    if len(apart_tokens):
        x_TC[apart_tokens] = _decoded(cursor, len(apart_tokens), num_channels, Grouping.TOKEN, APART_BITS)
    return x_TC


def _fitted(x_TC: F32, grouping: Grouping) -> _FittedGroups:
    rows_NM = grouping.rows(x_TC)
    return _FittedGroups(grouping, rows_NM, quantise.fit(rows_NM, grouping.length, centred=grouping.centred))


def _decoded(cursor: Cursor, num_tokens: int, num_channels: int, grouping: Grouping, bits: int) -> F32:
    size = (num_tokens, num_channels) if grouping is Grouping.TOKEN else (num_channels, num_tokens)
    return grouping.rows(quantise.decode(cursor, *size, grouping.length, bits, centred=grouping.centred))
