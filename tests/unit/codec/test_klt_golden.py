"""Golden vectors of the calibrated levels: a whole boundary in its short form, and a stream of the range coder.

Made with a basis that is written here, so that no calibration and no machine's rounding has a say. A change that breaks
them needs another KLT_FORMAT.
"""

from __future__ import annotations

import hashlib

import numpy as np

from splitvlm.codec import entropy
from splitvlm.codec.codec import Codec
from splitvlm.codec.entropy_model import EntropyModel, rows_of, units_of
from splitvlm.codec.grid import PLACES
from splitvlm.codec.klt import Basis, LearnedLevel, Transform
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.prompt import Template
from splitvlm.codec.reconstruction import Reconstructor
from splitvlm.domain import TOKENS

TOKENS_SHAPE, CHANNELS = (12,), 27
STREAM = (
    "16db11c8cf19d22c77ecfb99fd0a9978101e061f6eee99c6f3cd983a84b0bbf2d98d0a5dbbd796d0"
    "764c601933eb007675315cb3aec6658e5d58b0a600256f8d8f9901a7b238d8a8896bef9c7d6fd430"
)
SHORT = (
    "120410ee006d821a16db11c8cf19d22c77ecfb99fd0a9978101e061f6eee99c6f3cd983a84b0bbf2d98d0a5d"
    "bbd796d0764c601933eb007675315cb3aec6658e5d58b0a600256f8d8f9901a7b238d8a8896bef9cd467d430"
)
IDS = [1, 11, 12, 401, 7, 565, 0, 2, 3]


def test_golden_stream() -> None:
    """As since KLT_FORMAT 7."""
    q_TK = whole_numbers()
    assert np.array_equal(
        entropy.decode(bytes.fromhex(STREAM), *q_TK.shape, drawn_entropy_model(), dense=q_TK.shape[1]).dense, q_TK
    )
    assert entropy.encode(q_TK, drawn_entropy_model()) == bytes.fromhex(STREAM)


def test_golden_stream_of_many_tokens() -> None:
    """As since KLT_FORMAT 7: the columns that share a histogram are told by their gaps."""
    q_TK = np.tile(whole_numbers(), (90, 1))
    stream = entropy.encode(q_TK, drawn_entropy_model())
    assert hashlib.sha256(stream).hexdigest()[:16] == "5d7a2cdfb82ee992"
    assert np.array_equal(entropy.decode(stream, *q_TK.shape, drawn_entropy_model(), dense=q_TK.shape[1]).dense, q_TK)


def test_golden_boundary_in_its_short_form() -> None:
    """As since KLT_FORMAT 7: level, the question's ids, columns up to the last that is not zero, the stream.

    Networks may round differently on each machine: what the reconstructor adds is pinned by its sums.
    """
    codec = drawn_codec()
    back = codec.decode(TOKENS, bytes.fromhex(SHORT))
    assert back["ids"].tolist() == IDS
    assert np.array_equal(np.rint(back["hidden"] / KLT_STEPS["klt3"]), whole_numbers())
    lain = back["hidden"] / KLT_STEPS["klt3"] - whole_numbers()
    assert np.allclose(lain[:, :3].sum(axis=0), (0.18198, -0.03795, -0.04076), atol=1e-3)
    hidden = whole_numbers().astype(np.float32) * np.float32(KLT_STEPS["klt3"])
    boundary = {"hidden": hidden, "ids": np.array(IDS)}
    assert codec.encode(TOKENS, boundary, "klt3") == bytes.fromhex(SHORT)


def whole_numbers() -> np.ndarray:
    scales = (6, 3, 1, 0.6, 0.4, *[0.3] * 21, 0.02)
    q_TK = np.random.default_rng(6).normal(scale=scales, size=(*TOKENS_SHAPE, CHANNELS)).round().astype(np.int64)
    q_TK[3, 0], q_TK[5, 6] = -300, 2**20
    return q_TK


def drawn_codec() -> Codec:
    """A basis of the identity: a coefficient is a channel."""
    eye = np.eye(CHANNELS, dtype=np.float32)
    draw = np.random.default_rng(8).integers
    shapes = (5, 9, 24), (24,), (PLACES, 24), (24, 24), (24,), (24, 3), (3,)
    reconstructor = Reconstructor(4, 3, *(draw(-8, 9, size=shape).astype(np.float32) / 64 for shape in shapes))
    learned = LearnedLevel(drawn_entropy_model(), np.zeros((CHANNELS, 2), np.float32), reconstructor)
    template = Template((1, 11, 12), (2, 3), 566)
    transform = Transform(np.zeros(CHANNELS, np.float32), eye, eye)
    return Codec({TOKENS: Basis(transform, dict.fromkeys(KLT_STEPS, learned), TOKENS_SHAPE, template)}, "drawn")


def drawn_entropy_model() -> EntropyModel:
    """With columns of each kind: in two passes, in one, that neighbours are not asked about, and of a shared histogram."""
    draw = np.random.default_rng(5).integers
    reach = np.array([9, 4, 2, *[1] * 15], np.int64)
    columns = len(reach)

    def whole(*shape: int) -> np.ndarray:
        return draw(-40, 41, size=shape).astype(np.float32)

    return EntropyModel(
        stride=4,
        rows=3,
        reach=reach,
        first=tuple(whole(rows_of(column, 3), units_of(column)) for column in range(columns)),
        first_bias=tuple(whole(units_of(column)) for column in range(columns)),
        second=tuple(whole(units_of(column), int(2 * reaches + 2)) for column, reaches in enumerate(reach)),
        second_bias=tuple(whole(int(2 * reaches + 2)) for reaches in reach),
        shifts=np.full((columns, 2), (6, 10), np.int64),
        bands=(np.array([9.0, 200.0, 4000.0, 210.0, 8.0, 1.0], np.float32),),
    )
