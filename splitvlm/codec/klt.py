"""A float tensor in the basis that its boundary was calibrated for: decorrelated channels, one uniform step for all.

    y = (x - mean) · A          A = M·V, M the square root of the model's sensitivity G to each direction of x,
    q = sign(y) · floor(|y| / step + ROUNDING)         V the eigenvectors of the covariance of (x - mean)·M, falling
    x' = (sign(q) · (|q| + c) + r) · step · S + mean   S = inverse of A; c of the column, for |q| = 1 and for larger ones
    step = KLT_STEPS[level], in root mean squares of y before it was scaled, times the `unit` of the boundary

G is the Fisher information of the model's answer about x (mean outer product of the gradients of the log-likelihood of
answers that the model itself gives: no labels). An error e in x changes the answer's distribution by about e·G·e / 2, so in
y all directions are equally dear, and one step fits all. What the model does not look at, or what hardly varies, falls to zero:
reverse water-filling (Cover and Thomas, 10.3.3). With G = 1 it is the Karhunen-Loève transform (PCA). What a step loses is
judged by the model's answers (`splitvlm evaluate --plans`), not by this module.

    body := level u8 · kept varint · stream      kept: columns up to the last that is not all zero

c is where the mean of what is rounded to |q| lies beyond it; r is what the receiver makes of all coefficients together
(reconstruction.py), within the cell of q. Neither costs a byte; r takes half of the square error away and more, at coarse
steps.
The stream is entropy.py's, under the entropy model that calibration learned for the level. T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec import entropy
from splitvlm.codec.entropy_model import EntropyModel
from splitvlm.codec.header import Cursor, malformed, varint
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.prompt import NO_TEMPLATE, Template
from splitvlm.codec.reconstruction import Reconstructor

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

ROUNDING: Final = 0.4  # below a half: a small coefficient costs more bits than it is worth (dead zone)
MOST_BEYOND: Final = 1 - 2 * ROUNDING  # then no value moves by more than without c
FEW: Final = 30  # values of a column: with fewer, its mean says less than that of all columns
FLOOR: Final = 1e-3  # of the mean sensitivity
LARGEST: Final = entropy.LARGEST
BLOCK: Final = 16  # columns
OUTLIER_NORM: Final = 8.0
"""Tokens whose norm exceeds so many times the median are not learned from: a few attention sinks, hundreds of times larger
than all others, would bend the basis to themselves. When coded, their coefficients are escapes."""
_LEVELS: Final = tuple(KLT_STEPS)


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """Holds mean [C], analysis A [C, C] and synthesis S [C, C]."""

    mean: F32
    analysis: F32
    synthesis: F32

    @property
    def channels(self) -> int:
        """Returns the number of channels that go into the transform."""
        return len(self.mean)


@dataclass(frozen=True, slots=True, eq=False)
class LearnedLevel:
    """Holds what one of KLT_STEPS learned: how likely values are, centres [C, 2], and what restores them, where that helps."""

    entropy_model: EntropyModel
    centres: F32
    reconstructor: Reconstructor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """Holds what calibration learned of one boundary: its transform, and what each of KLT_STEPS needs.

    `shape` is that of all tensors seen, without the channels; empty where it varied. `template`: of the prompts beside them.
    """

    transform: Transform
    levels: Mapping[str, LearnedLevel]
    shape: tuple[int, ...] = ()
    template: Template = NO_TEMPLATE

    @property
    def channels(self) -> int:
        """Returns the number of channels of the boundary tensor that the basis codes."""
        return self.transform.channels


def transform_of(x_NC: F32, sensitivity_CC: F64 | None = None, unit: float = 1.0) -> Transform:
    """Learns a transform from N tokens, several times C, and the model's sensitivity G (None: to all directions alike).

    unit: what one is in y, in root mean squares; a smaller one makes all levels finer.
    """
    norms = np.linalg.norm(x_NC, axis=1)
    x_NC = x_NC[norms <= OUTLIER_NORM * np.median(norms)]
    mean = x_NC.mean(axis=0, dtype=np.float64)
    centred = x_NC - mean
    root, inverse_root = _roots(sensitivity_CC, len(mean))
    weighted = centred @ root
    variances, vectors = np.linalg.eigh(weighted.T @ weighted / len(weighted))
    vectors = vectors[:, np.argsort(variances)[::-1]]
    analysis, synthesis = root @ vectors, vectors.T @ inverse_root
    scale = unit * float(np.sqrt(variances.mean()))
    return Transform(*(array.astype(np.float32) for array in (mean, analysis / scale, synthesis * scale)))


def _roots(sensitivity_CC: F64 | None, channels: int) -> tuple[F64, F64]:
    """Returns the symmetric square root of G, and its inverse. A floor keeps directions that no answer looked at finite."""
    if sensitivity_CC is None:
        return np.eye(channels), np.eye(channels)
    values, vectors = np.linalg.eigh(sensitivity_CC)
    roots = np.sqrt(np.maximum(values, 0) + FLOOR * values.mean())
    return vectors * roots @ vectors.T, vectors / roots @ vectors.T


def quantised(x_TC: F32, transform: Transform, level: str) -> I32:
    """Returns q [T, C] of an array whose coefficients all have room in an escape."""
    q_TC = _quantised(x_TC, transform, level)
    assert q_TC is not None, "a coefficient beyond what an escape holds"
    return q_TC


def coefficients(x_TC: F32, transform: Transform, level: str) -> F32:
    """Returns y / step [T, C]. Each column in one run: so they are coded."""
    y_CT: F32 = np.matmul(transform.analysis.T, (x_TC - transform.mean).T, dtype=np.float32)
    y_CT /= np.float32(KLT_STEPS[level])
    return y_CT.T


def _quantised(x_TC: F32, transform: Transform, level: str) -> I32 | None:
    y_TC = coefficients(x_TC, transform, level)
    if max(y_TC.max(initial=0.0), -y_TC.min(initial=0.0)) >= LARGEST:
        return None
    y_TC += np.copysign(np.float32(ROUNDING), y_TC)
    return y_TC.astype(np.int32)  # towards zero


def centres_of(x_NC: F32, transform: Transform, level: str) -> F32:
    """Returns c [C, 2] of tokens of the calibration pictures."""
    magnitude_NC = np.abs(coefficients(x_NC, transform, level))
    q_NC = np.floor(magnitude_NC + np.float32(ROUNDING))
    beyond_NC = magnitude_NC - q_NC
    columns = []
    for chosen_NC in (q_NC == 1, q_NC > 1):
        counts_C = chosen_NC.sum(axis=0)
        sums_C = np.where(chosen_NC, beyond_NC, 0).sum(axis=0)
        everywhere = sums_C.sum() / max(1, counts_C.sum())
        columns.append((sums_C + FEW * everywhere) / (counts_C + FEW))
    return np.stack(columns, axis=1).clip(0, MOST_BEYOND).astype(np.float32)


def encode(x_TC: F32, basis: Basis, level: str) -> bytes | None:
    """Codes an array [T, C] as a body; None where it does not fit this basis, or a coefficient has no room in an escape."""
    if x_TC.shape[1] != basis.channels or not len(x_TC):
        return None
    q_TC = _quantised(x_TC, basis.transform, level)
    if q_TC is None:
        return None
    used = np.flatnonzero(q_TC.any(axis=0))
    num_columns = int(used[-1]) + 1 if len(used) else 0
    stream = entropy.encode(q_TC[:, :num_columns], basis.levels[level].entropy_model)
    return bytes((_LEVELS.index(level),)) + varint(num_columns) + stream


def decode(cursor: Cursor, num_tokens: int, basis: Basis, code: int) -> F32:
    """Returns an array [T, C] from a body after its level. Raises ProtocolError."""
    if code >= len(_LEVELS):
        malformed("its level is unknown")
    level = _LEVELS[code]
    learned = basis.levels[level]
    num_columns = cursor.varint(basis.channels, "the number of columns")
    reconstructor, synthesis = learned.reconstructor, basis.transform.synthesis
    q = entropy.decode(
        bytes(cursor.take(cursor.left)),
        num_tokens,
        num_columns,
        learned.entropy_model,
        dense=reconstructor.columns if reconstructor else 0,
    )
    y_TK = restored(q.dense, learned)
    x_TC = y_TK @ synthesis[: y_TK.shape[1]]
    if len(q.values):
        x_TC += q.product(learned.centres, synthesis)
    x_TC *= np.float32(KLT_STEPS[level])
    x_TC += basis.transform.mean
    return x_TC


def restored(q_TK: npt.NDArray[np.signedinteger[Any]], learned: LearnedLevel) -> F32:
    """Returns y / step [T, K], or with as many columns as the level's reconstructor has."""
    y_TK = centred(q_TK, learned.centres)
    if learned.reconstructor is None or not q_TK.shape[1]:
        return y_TK
    columns = learned.reconstructor.columns
    q_TR = q_TK[:, :columns].astype(np.float32)  # with float32, whole numbers would make float64
    if q_TK.shape[1] < columns:
        not_sent = ((0, 0), (0, columns - q_TK.shape[1]))
        y_TK, q_TR = np.pad(y_TK, not_sent), np.pad(q_TR, not_sent)
    y_TR = y_TK[:, :columns]
    y_TR += learned.reconstructor(q_TK)
    signs_TR = np.clip(q_TR, -1, 1)
    middle_TR = q_TR + signs_TR * np.float32(0.5 - ROUNDING)  # of the cell, which the dead zone shifts
    half_TR = np.float32(1 - ROUNDING) - np.abs(signs_TR) * np.float32(0.5 - ROUNDING)
    y_TR -= middle_TR
    np.clip(y_TR, -half_TR, half_TR, out=y_TR)
    y_TR += middle_TR
    return y_TK


def centred(q_TK: npt.NDArray[np.signedinteger[Any]], centres: F32) -> F32:
    """Returns y / step where nothing but each value itself tells where it lay. Each column in one run."""
    y_KT = np.empty(q_TK.shape[::-1], np.float32)
    near_K1, far_K1 = centres[: len(y_KT), :1], centres[: len(y_KT), 1:]
    at_two_K1 = far_K1 - near_K1
    for start in range(0, len(y_KT), BLOCK):  # what a block needs besides is little, and stays in the cache
        some = slice(start, start + BLOCK)
        rows = y_KT[some]
        rows[:] = q_TK.T[some]
        if max(rows.max(initial=0), -rows.min(initial=0)) <= 1:  # most of the columns
            rows *= 1 + near_K1[some]
            continue
        signs = np.clip(rows, -1, 1)
        beyond = np.clip(rows, -2, 2)
        beyond -= signs
        beyond *= at_two_K1[some]
        signs *= near_K1[some]
        rows += signs
        rows += beyond
    return y_KT.T
