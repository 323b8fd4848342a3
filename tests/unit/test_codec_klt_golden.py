"""Golden vectors of the calibrated levels: a whole boundary in its short form, and a stream of the range coder.

Made with a basis that is written here, so that no calibration and no machine's rounding has a say. A change that breaks
them needs another KLT_FORMAT.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from splitvlm.codec import entropy
from splitvlm.codec.codec import Codec
from splitvlm.codec.density import HIDDEN_UNITS, Density
from splitvlm.codec.klt import Basis, Learned, Transform
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.prompt import Template
from splitvlm.codec.restoring import Restorer
from splitvlm.domain import TOKENS

TOKENS_SHAPE, CHANNELS = (12,), 14
STREAM = "870a62c45aabb29de8726d839cbddfa264f6e9db4890fc95121c35880c7653a85725c5133c95856e"
SHORT = "120410ee006d820d870a62c45aabb29de8726d839cbddfa264f6e9db4890fc95121c35880c7653a85725c51394a1316e"
IDS = [1, 11, 12, 401, 7, 565, 0, 2, 3]


def test_golden_stream() -> None:
    """As since KLT_FORMAT 3."""
    q_TK = whole_numbers()
    assert np.array_equal(entropy.decode(bytes.fromhex(STREAM), *q_TK.shape, drawn_density()), q_TK)
    assert entropy.encode(q_TK, drawn_density()) == bytes.fromhex(STREAM)


def test_golden_stream_of_many_tokens() -> None:
    """As since KLT_FORMAT 6: the columns that share a histogram are told by their gaps."""
    q_TK = np.tile(whole_numbers(), (90, 1))
    stream = entropy.encode(q_TK, drawn_density())
    assert hashlib.sha256(stream).hexdigest()[:16] == "ad97ba5fa336c4f5"
    assert np.array_equal(entropy.decode(stream, *q_TK.shape, drawn_density()), q_TK)


def test_golden_boundary_in_its_short_form() -> None:
    """As since KLT_FORMAT 5: level, the question's ids, columns up to the last that is not zero, the stream.

    Networks may round differently on each machine: what the restorer adds is pinned by its sums.
    """
    codec = drawn_codec()
    back = codec.decode(TOKENS, bytes.fromhex(SHORT))
    assert back["ids"].tolist() == IDS
    assert np.array_equal(np.rint(back["hidden"].numpy() / KLT_STEPS["klt3"]), whole_numbers())
    lain = back["hidden"].numpy() / KLT_STEPS["klt3"] - whole_numbers()
    assert np.allclose(lain[:, :3].sum(axis=0), (-0.94566, -1.34182, 0.52370), atol=1e-3)
    hidden = whole_numbers().astype(np.float32) * np.float32(KLT_STEPS["klt3"])
    boundary = {"hidden": torch.from_numpy(hidden), "ids": torch.tensor(IDS)}
    assert codec.encode(TOKENS, boundary, "klt3") == bytes.fromhex(SHORT)


def whole_numbers() -> np.ndarray:
    scales = (6, 3, 1, 0.6, 0.4, *[0.3] * 8, 0.02)
    q_TK = np.random.default_rng(6).normal(scale=scales, size=(*TOKENS_SHAPE, CHANNELS)).round().astype(np.int64)
    q_TK[3, 0], q_TK[5, 6] = -300, 2**20
    return q_TK


def drawn_codec() -> Codec:
    """A basis of the identity: a coefficient is a channel."""
    eye = np.eye(CHANNELS, dtype=np.float32)
    draw = np.random.default_rng(8).integers
    shapes = (
        (5, 9, HIDDEN_UNITS),
        (HIDDEN_UNITS,),
        (HIDDEN_UNITS, HIDDEN_UNITS),
        (HIDDEN_UNITS,),
        (HIDDEN_UNITS, 3),
        (3,),
    )
    restorer = Restorer(4, *(draw(-8, 9, size=shape).astype(np.float32) / 64 for shape in shapes))
    learned = Learned(drawn_density(), np.zeros((CHANNELS, 2), np.float32), restorer)
    template = Template((1, 11, 12), (2, 3), 566)
    transform = Transform(np.zeros(CHANNELS, np.float32), eye, eye)
    return Codec({TOKENS: Basis(transform, dict.fromkeys(KLT_STEPS, learned), TOKENS_SHAPE, template)}, "drawn")


def drawn_density() -> Density:
    draw = np.random.default_rng(5).integers
    reach = np.array([9, 4, 2, 1, 1], np.int64)

    def whole(*shape: int) -> np.ndarray:
        return draw(-40, 41, size=shape).astype(np.float32)

    return Density(
        stride=4,
        reach=reach,
        first=tuple(whole(5 * column, HIDDEN_UNITS) for column in range(5)),
        first_bias=whole(5, HIDDEN_UNITS),
        second=tuple(whole(HIDDEN_UNITS, int(2 * reaches + 2)) for reaches in reach),
        second_bias=tuple(whole(int(2 * reaches + 2)) for reaches in reach),
        shifts=np.full((5, 2), (6, 10), np.int64),
        bands=(np.array([9.0, 200.0, 4000.0, 210.0, 8.0, 1.0], np.float32),),
    )
