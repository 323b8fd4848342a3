"""Quantised coefficients of which the last columns are zero nearly everywhere: those as the values that are not.

What is multiplied by zeros need not be multiplied: of 1,088 tokens the last 376 of 576 columns hold 5 values in a hundred, and
their way back to features takes a quarter of a dense product's time (docs/experiments/codec-calibrated.md).
The product is torch's, two to three times faster than any in numpy: only a receiver restores features, and it has torch.
T tokens, K columns, D of them dense, N values apart, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from splitvlm.codec.entropy_model import F32

Whole = npt.NDArray[np.signedinteger[Any]]
I64 = npt.NDArray[np.int64]

SHORT: Final = 2**16  # tokens: numbers below it are sorted by their digits, many times faster


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """Holds coefficients [T, K]. A value of the columns after the first D stands at places = column · T + token, rising."""

    dense: Whole  # [T, D], each column in one run
    places: I64  # [N]
    values: Whole  # [N]

    def product(self, centres: F32, matrix_KC: F32) -> F32:
        """Returns the product [T, C] of the columns after D with their part of a matrix; values stand at centres [K, 2]
        (klt.py).
        """
        import torch

        num_tokens = len(self.dense)
        columns, tokens = np.divmod(self.places, num_tokens)
        weights = self.values.astype(np.float32)
        weights += np.sign(weights) * centres[columns, (np.abs(self.values) > 1).astype(np.intp)]
        order = np.argsort(tokens.astype(np.uint16 if num_tokens <= SHORT else np.int64), kind="stable")
        starts = np.searchsorted(tokens[order], np.arange(num_tokens))
        summed = torch.nn.functional.embedding_bag(
            torch.from_numpy(columns[order]),
            torch.from_numpy(matrix_KC),
            torch.from_numpy(starts),
            mode="sum",
            per_sample_weights=torch.from_numpy(weights[order]),
        )
        product_TC: F32 = summed.numpy()
        return product_TC
