"""What a receiver makes of coarse coefficients: where others tell where one lay, and where they do not."""

from __future__ import annotations

import numpy as np

from splitvlm.calibration import reconstruction_training
from splitvlm.codec.reconstruction import Reconstructor

SIDE = 4
RANDOM = np.random.default_rng(0)


def picture(*, dependent: bool) -> tuple[np.ndarray, np.ndarray]:
    """q [16, 3] and what is left [16, 3]: column 2 is too small to be sent, and lies where column 0 of the token above lies."""
    y_TC = RANDOM.normal(scale=(3.0, 2.0, 0.2), size=(SIDE * SIDE, 3)).astype(np.float32)
    if dependent:
        y_TC[:, 2] = 0.4 * np.sign(np.roll(y_TC[:, 0], SIDE))
    q_TC = np.trunc(y_TC + np.copysign(0.4, y_TC)).astype(np.int64)
    return q_TC, (y_TC - q_TC).astype(np.float32)


def test_what_others_tell_is_restored() -> None:
    reconstructor = reconstruction_training.learn([picture(dependent=True) for _ in range(200)], SIDE, steps=300)
    assert reconstructor is not None
    q_TC, left_TC = picture(dependent=True)
    inner = slice(SIDE, None)
    missed = np.square(left_TC - reconstructor(q_TC))[inner, 2].mean()
    assert missed < 0.3 * np.square(left_TC)[inner, 2].mean()


def test_where_nothing_is_told_there_is_no_reconstructor() -> None:
    pictures = [picture(dependent=False) for _ in range(200)]
    assert reconstruction_training.learn(pictures, SIDE, steps=300) is None


def test_the_network_is_that_of_its_lesson() -> None:
    """The receiver's arithmetic against torch's, at the ends of a picture too, and with columns that were not sent."""
    pictures = [picture(dependent=True) for _ in range(30)]
    reconstructor = reconstruction_training.learn(pictures, SIDE, steps=20, least_gain=-1.0)
    assert isinstance(reconstructor, Reconstructor)
    q_TC = pictures[0][0].copy()
    q_TC[:, 2] = 0
    inputs = reconstruction_training._inputs(q_TC, SIDE, reconstructor.rows)
    first = np.concatenate((reconstructor.first.reshape(-1, 96), reconstructor.places))
    assert reconstructor.rows == SIDE
    hidden = np.maximum(inputs @ first + reconstructor.first_bias, 0)
    hidden = np.maximum(hidden @ reconstructor.second + reconstructor.second_bias, 0)
    expected = hidden @ reconstructor.third + reconstructor.third_bias
    assert np.allclose(reconstructor(q_TC), expected, atol=1e-5)
    assert np.allclose(reconstructor(q_TC[:, :2]), expected, atol=1e-5)
    assert reconstructor(q_TC[:1]).shape == (1, 3)  # shorter than a row: no neighbour above or below
