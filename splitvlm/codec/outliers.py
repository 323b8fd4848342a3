"""Finds the channels and tokens that are kept apart, by a stated rule.

Hidden states of language models have channels, and some tokens (the first above all), 100 to 500 times larger than the
rest (measured on SmolLM2-135M: 95 times after 5 layers, 504 after 15; Dettmers et al., arXiv 2208.07339; Sun et al.,
arXiv 2402.17762). In one group with ordinary values they would take the whole grid.

Rule: a channel is apart if its largest magnitude exceeds OUTLIER_RATIO times the median of that over all channels; at
most one channel in OUTLIER_SHARE, the largest first. Then the same for tokens, over the channels that are left.

Shape letters: T tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splitvlm.codec.header import Cursor, malformed, varint
from splitvlm.codec.levels import OUTLIER_RATIO, OUTLIER_SHARE

F32 = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outliers:
    """Holds the indices of what is kept apart, rising. A token apart is whole; a channel apart is of the other tokens."""

    channels: Places
    tokens: Places


def find(x_TC: F32) -> Outliers:
    """Finds the channels, and then the tokens, of a tensor [T, C] whose largest value is an outlier."""
    sizes_TC = np.abs(x_TC)
    channels = _largest(sizes_TC.max(axis=0))
    sizes_TC[:, channels] = 0.0
    return Outliers(channels, _largest(sizes_TC.max(axis=1)))


def _largest(peaks: F32) -> Places:
    """Places of the peaks above the rule's threshold, rising. Where most peaks are zero, none is."""
    median = np.median(peaks)
    indices = np.flatnonzero(peaks > OUTLIER_RATIO * median) if median > 0 else np.zeros(0, np.int64)
    room = len(peaks) // OUTLIER_SHARE
    if len(indices) > room:
        indices = indices[np.argsort(-peaks[indices], kind="stable")[:room]]
    return np.sort(indices)


def pack_places(indices: Places) -> bytes:
    """Codes rising indices as their number and the gaps between them, each as a varint."""
    gaps = np.diff(indices, prepend=-1) - 1
    return varint(len(indices)) + b"".join(varint(int(gap)) for gap in gaps)


def read_places(cursor: Cursor, size: int) -> Places:
    """Returns rising places below `size`. Raises ProtocolError."""
    count = cursor.varint(size // OUTLIER_SHARE, "the number of outliers")
    gaps = [cursor.varint(size, "an outlier's place") for _ in range(count)]
    indices = np.cumsum(np.array(gaps, np.int64) + 1) - 1
    if count and indices[-1] >= size:
        malformed("an outlier lies outside of it")
    return indices


def others(indices: Places, size: int) -> Places:
    """Returns the indices from 0 to `size` that are not among `indices`, rising."""
    return np.setdiff1d(np.arange(size), indices, assume_unique=True)
