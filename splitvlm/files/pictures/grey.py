"""Greyscale deeper than 8 bits to 8 bits, by a range of values that becomes black to white.

    1. The range that the file states (TIFF's SMinSampleValue and SMaxSampleValue).
    2. Whole numbers from 0 to 65,535: from 0 to the end of the smallest depth that holds them all (8, 10, 12, 14 or 16 bits;
       where the file names fewer significant bits than 16, by sBIT or by its bits a sample, that depth or 16). Numbers
       with a fraction from 0 to 1: from 0 to 1.
    3. Everything else, and what would use less than a sixteenth of the range of rule 2: from the lowest to the highest value.

So a 16-bit picture looks like the same one of 8 bits, 12 bits of a sensor in 16 look alike, and neither depth maps nor
tomographies become blank. The result depends on the file alone. Values that are no number become black.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from splitvlm.files.pictures.layout import Samples

DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
_DEPTHS_BITS = (8, 10, 12, 14, 16)
_LEAST_SHARE = 16  # of a range, below which the picture would be almost blank
_PIECE = 1 << 16  # samples at a time, so that wide numbers of a whole picture never lie in memory

Array = np.ndarray[Any, Any]


def to_grey(picture: Image.Image, samples: Samples, transparent: int | None = None) -> Image.Image:
    """Returns the picture in mode L. Samples that equal `transparent` become white."""
    values = np.asarray(picture)
    if picture.mode == "I" and samples.bits == 32 and samples.unsigned:
        values = values.view(np.uint32)
    shape, values = values.shape, values.reshape(-1)
    low, high = _range(values, samples)
    grey = np.empty(values.size, np.uint8)
    for start in range(0, values.size, _PIECE):
        piece = values[start : start + _PIECE]
        scaled = np.nan_to_num((piece.astype(np.float64) - low) * 255 / (high - low), nan=0.0)
        whole = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        if samples.white_is_zero:
            whole = 255 - whole
        if transparent is not None:
            whole[piece == transparent] = 255
        grey[start : start + _PIECE] = whole
    return Image.fromarray(grey.reshape(shape))


def _range(values: Array, samples: Samples) -> tuple[float, float]:
    """Returns the values that become black and white; the second is above the first."""
    if (
        samples.lowest is not None
        and samples.highest is not None
        and -np.inf < samples.lowest < samples.highest < np.inf
    ):
        return samples.lowest, samples.highest
    lowest, highest = _extent(values)
    end = _usual_end(lowest, highest, samples.significant_bits, whole=values.dtype.kind != "f")
    if end and ((highest - lowest) * _LEAST_SHARE >= end or highest == lowest):
        return 0.0, end
    return lowest, highest if highest > lowest else lowest + 1.0


def _usual_end(lowest: float, highest: float, significant_bits: int, *, whole: bool) -> float | None:
    """Returns the white of rule 2, or None where the rule does not speak of such values."""
    if lowest < 0:
        return None
    if not whole:
        return 1.0 if highest <= 1 else None
    depths = (significant_bits, 16) if 8 < significant_bits < 16 else _DEPTHS_BITS
    return next((float(2**bits - 1) for bits in depths if highest < 2**bits), None)


def _extent(values: Array) -> tuple[float, float]:
    """Returns the lowest and the highest value that is a finite number; 0 and 0 where none is."""
    lowest, highest = np.inf, -np.inf
    for start in range(0, values.size, _PIECE):
        piece = values[start : start + _PIECE]
        finite = piece[np.isfinite(piece)] if piece.dtype.kind == "f" else piece
        if finite.size:
            lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
    return (lowest, highest) if lowest <= highest else (0.0, 0.0)
