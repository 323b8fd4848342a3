"""A float tensor in the basis that its boundary was calibrated for: decorrelated channels, one uniform step for all.

    y = (x - mean) · A          A = M·V, M the square root of the model's sensitivity G to each direction of x,
    q = sign(y) · floor(|y| / step + ROUNDING)         V the eigenvectors of the covariance of (x - mean)·M, falling
    x' = q · step · S + mean    S = inverse of A
    step = KLT_STEPS[level], in root mean squares of y

G is the Fisher information of the model's answer about x (mean outer product of the gradients of the log-likelihood of
answers that the model itself gives: no labels). An error e in x changes the answer's distribution by about e·G·e / 2, so in
y all directions are equally dear, and one step fits all. What the model does not look at, or what hardly varies, falls to zero:
reverse water-filling (Cover and Thomas, 10.3.3). With G = 1 it is the Karhunen-Loève transform (PCA). What a step loses is
judged by the model's answers (`splitvlm evaluate --plans`), not by this module.

    body    := level u8 · kept varint · wide u8 · segment*      kept: columns up to the last that is not all zero
    segment := block of the low bytes of zigzag(q), column by column; after it, where wide = 1, that of the high bytes

Columns of like variance share a segment, because each block has an entropy table of its own. T tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec.blocks import block, read_block
from splitvlm.codec.header import Cursor, malformed, varint
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.varints import unzigzag, zigzag

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

ROUNDING: Final = 0.4  # below a half: a small coefficient costs more bits than it is worth (dead zone)
FLOOR: Final = 1e-3  # of the mean sensitivity
LARGEST: Final = 2**15 - 1
_EDGES: Final = (2, 6, 14, 30, 62, 126, 254)  # first columns of the segments after the first
_LEVELS: Final = tuple(KLT_STEPS)


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """What calibration learned of one boundary: mean [C], analysis A [C, C], synthesis S [C, C]."""

    mean: F32
    analysis: F32
    synthesis: F32

    @property
    def channels(self) -> int:
        return len(self.mean)


def basis_of(x_NC: F32, sensitivity_CC: F64 | None = None) -> Basis:
    """Learn a basis from N tokens, several times C, and the model's sensitivity G (None: to all directions alike)."""
    mean = x_NC.mean(axis=0, dtype=np.float64)
    centred = x_NC - mean
    root, inverse_root = _roots(sensitivity_CC, len(mean))
    weighted = centred @ root
    variances, vectors = np.linalg.eigh(weighted.T @ weighted / len(weighted))
    vectors = vectors[:, np.argsort(variances)[::-1]]
    analysis, synthesis = root @ vectors, vectors.T @ inverse_root
    scale = float(np.sqrt(variances.mean()))
    return Basis(*(array.astype(np.float32) for array in (mean, analysis / scale, synthesis * scale)))


def _roots(sensitivity_CC: F64 | None, channels: int) -> tuple[F64, F64]:
    """The symmetric square root of G, and its inverse. A floor keeps directions that no answer looked at finite."""
    if sensitivity_CC is None:
        return np.eye(channels), np.eye(channels)
    values, vectors = np.linalg.eigh(sensitivity_CC)
    roots = np.sqrt(np.maximum(values, 0) + FLOOR * values.mean())
    return vectors * roots @ vectors.T, vectors / roots @ vectors.T


def fits(x_TC: F32, basis: Basis, level: str) -> bool:
    """Whether every coefficient has room in 16 bits."""
    if x_TC.shape[1] != basis.channels:
        return False
    largest = np.abs((x_TC - basis.mean) @ basis.analysis).max(initial=0.0)
    return bool(largest < LARGEST * KLT_STEPS[level])


def encode(x_TC: F32, basis: Basis, level: str) -> bytes:
    """An array [T, C] that `fits`, as a body."""
    y_TC = (x_TC - basis.mean) @ basis.analysis / np.float32(KLT_STEPS[level])
    q_TC = (np.sign(y_TC) * np.floor(np.abs(y_TC) + np.float32(ROUNDING))).astype(np.int64)
    used = np.flatnonzero(q_TC.any(axis=0))
    kept = int(used[-1]) + 1 if len(used) else 0
    codes_KT = np.ascontiguousarray(zigzag(q_TC[:, :kept]).T)
    wide = bool((codes_KT >> np.uint64(8)).any())
    parts = [bytes((_LEVELS.index(level),)), varint(kept), bytes((wide,))]
    for start, stop in _segments(kept):
        parts.append(block(codes_KT[start:stop].astype(np.uint8).tobytes()))
        if wide:
            parts.append(block((codes_KT[start:stop] >> np.uint64(8)).astype(np.uint8).tobytes()))
    return b"".join(parts)


def decode(cursor: Cursor, num_tokens: int, basis: Basis) -> F32:
    """An array [T, C]. Raises ProtocolError."""
    level = cursor.byte()
    if level >= len(_LEVELS):
        malformed("its level is unknown")
    kept = cursor.varint(basis.channels, "the number of columns")
    wide = cursor.byte()
    if wide > 1:
        malformed("its width is unknown")
    codes_KT = np.empty((kept, num_tokens), np.uint64)
    for start, stop in _segments(kept):
        codes_KT[start:stop] = _plane(cursor, stop - start, num_tokens)
        if wide:
            codes_KT[start:stop] |= _plane(cursor, stop - start, num_tokens) << np.uint64(8)
    y_TK = unzigzag(codes_KT).T.astype(np.float32) * np.float32(KLT_STEPS[_LEVELS[level]])
    return np.asarray(y_TK @ basis.synthesis[:kept] + basis.mean, np.float32)


def _plane(cursor: Cursor, columns: int, num_tokens: int) -> npt.NDArray[np.uint64]:
    data = read_block(cursor, columns * num_tokens)
    return np.frombuffer(data, np.uint8).reshape(columns, num_tokens).astype(np.uint64)


def _segments(kept: int) -> list[tuple[int, int]]:
    edges = [0, *(edge for edge in _EDGES if edge < kept), kept]
    return [(start, stop) for start, stop in pairwise(edges) if stop > start]
