"""Trains one level of a boundary on unlabelled pictures: its entropy model, centres and reconstructor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitvlm.calibration import entropy_model_training, reconstruction_training
from splitvlm.codec.klt import F32, LearnedLevel, Transform, centred, centres_of, coefficients, quantised


def learn(
    pictures: Sequence[F32], transform: Transform, level: str, stride: int, *, steps: int = entropy_model_training.STEPS,
    least_gain: float = reconstruction_training.LEAST_GAIN,
) -> LearnedLevel:  # fmt: skip
    """Learns from x [T, C] of each picture. stride: tokens from one to that below it; steps: of the training of each network.

    A reconstructor is kept where it takes so large a share of the square error away.
    """
    coded = [quantised(x_TC, transform, level) for x_TC in pictures]
    centres = centres_of(np.concatenate(pictures), transform, level)
    left = [
        (q_TC, coefficients(x_TC, transform, level) - centred(q_TC, centres))
        for q_TC, x_TC in zip(coded, pictures, strict=True)
    ]
    entropy_model = entropy_model_training.learn([q_TC.astype(np.int64) for q_TC in coded], stride, steps=steps)
    return LearnedLevel(
        entropy_model, centres, reconstruction_training.learn(left, stride, steps=steps, least_gain=least_gain)
    )
