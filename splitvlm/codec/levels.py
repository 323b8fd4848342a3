"""The ladder of codec levels, from exact to smallest, and the codec's version. Loads neither torch nor numpy.

A level's name is what plans, configurations and reports say. The planner takes a level for what was measured about it;
only this package knows what it does.
"""

from __future__ import annotations

import hashlib
import json

from splitvlm.codec import header
from splitvlm.domain import Cut, CutKind

LOSSLESS = "lossless"
NONE = "none"

BITS: dict[str, int] = {"int8": 8, "int6": 6, "int4": 4, "int3": 3, "int2": 2}
"""Bits of a code at each lossy level of features."""

KLT_STEPS: dict[str, float] = {
    "klt1": 0.5,
    "klt2": 1.0,
    "klt3": 1.5,
    "klt4": 2.25,
    "klt5": 3.0,
    "klt6": 3.75,
    "klt7": 4.5,
    "klt8": 5.25,
}
"""Steps of the calibrated levels, in units of the weighted features (klt.py). For calibrated boundaries only."""

KLT_FORMAT = 7
"""The version of a calibrated body. 1 was zstandard in segments of columns; 2 had no bands, and escapes of 16 bits; 3 no
centres and no short form; 4 no reconstructors, and all ids of a prompt; 5 no gaps (gaps.py);
6 one pass through every column, and no places (grid.py)."""

SMALL, SMALLER = 5 / 8, 3 / 8
PICTURE_FORMATS: dict[str, tuple[str, int, float]] = {
    "webp90": ("WEBP", 90, 1.0),
    "webp75": ("WEBP", 75, 1.0),
    "webp50": ("WEBP", 50, 1.0),
    "webp25": ("WEBP", 25, 1.0),
    "webp50s": ("WEBP", 50, SMALL),
    "webp50xs": ("WEBP", 50, SMALLER),
    "avif35": ("AVIF", 35, 1.0),
    "avif15": ("AVIF", 15, 1.0),
    "avif25s": ("AVIF", 25, SMALL),
    "jpeg90": ("JPEG", 90, 1.0),
    "jpeg75": ("JPEG", 75, 1.0),
    "jpeg50": ("JPEG", 50, 1.0),
}
"""Format, quality and scale of a side at each lossy level of pictures."""

PICTURE_VERSION = 3
"""The version of the pictures' encoding. 1 knew one size only, and neither AVIF nor the slower WebP and JPEG;
2 no side longer than its format codes."""

MAX_SIDE_PX: dict[str, int] = {"WEBP": 16_383, "AVIF": 32_768, "JPEG": 65_500}
"""The longest side that the formats' libraries code. A longer picture is scaled down to it; at `lossless` it becomes PNG."""

FEATURE_LEVELS: tuple[str, ...] = (LOSSLESS, *BITS)
PICTURE_LEVELS: tuple[str, ...] = (LOSSLESS, *PICTURE_FORMATS)

# Quantiser and outlier rule: a change of any of these changes the bytes, and so the hash.
TOKEN_GROUP = 64
"""Channels that share a scale where groups lie within a token."""
CHANNEL_GROUP = 128
"""Tokens, at most, that share a scale where groups lie within a channel."""
OUTLIER_RATIO = 12.0
"""A channel (token) is kept apart where its largest magnitude exceeds so many times the median of all of them."""
OUTLIER_SHARE = 8
"""At most one channel (token) in so many is kept apart, the largest first."""
APART_BITS = 16
"""Bits of a code of what is kept apart."""

CODEC_VERSION = "1"
"""Version of the format of a coded boundary: the text of its first byte."""


def levels_of(cut: Cut) -> tuple[str, ...]:
    """Returns the levels that a cut can be coded at, from exact to smallest. `device` sends nothing: its level is `none`."""
    if cut.kind is CutKind.DEVICE:
        return (NONE,)
    return PICTURE_LEVELS if cut.kind is CutKind.IMAGE else FEATURE_LEVELS


def codec_hash() -> str:
    """Returns SHA-256 (hex) of the format's version and tables. Nodes compare it in the handshake, and refuse what differs."""
    tables = {
        "version": CODEC_VERSION,
        "names": header.NAMES,
        "dtypes": header.DTYPES,
        "codings": [coding.name for coding in header.Coding],
        "bits": BITS,
        "integers": ["planes", "runs", "steps", "bits"],
        "klt": KLT_STEPS,
        "klt format": KLT_FORMAT,
        "picture version": PICTURE_VERSION,
        "pictures": PICTURE_FORMATS,
        "sides": MAX_SIDE_PX,
        "groups": [TOKEN_GROUP, CHANNEL_GROUP],
        "outliers": [OUTLIER_RATIO, OUTLIER_SHARE, APART_BITS],
    }
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()
