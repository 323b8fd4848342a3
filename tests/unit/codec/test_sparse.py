"""Coefficients whose last columns are kept as the values that are not zero."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.codec import klt
from splitvlm.codec.sparse import SHORT, Coefficients

DENSE, COLUMNS, CHANNELS = 3, 20, 7


def split(q_TK: np.ndarray) -> Coefficients:
    rest = q_TK[:, DENSE:].T.reshape(-1)
    places = np.flatnonzero(rest)
    return Coefficients(q_TK[:, :DENSE], places + DENSE * len(q_TK), rest[places])


def drawn(tokens: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q [T, K], centres [K, 2], a matrix [K, C]."""
    random = np.random.default_rng(seed)
    q_TK = random.integers(-3, 4, (tokens, COLUMNS)) * (random.random((tokens, COLUMNS)) < share)
    centres, matrix = random.random((COLUMNS, 2)) * 0.2, random.normal(size=(COLUMNS, CHANNELS))
    return q_TK.astype(np.int32), centres.astype(np.float32), matrix.astype(np.float32)


@given(st.integers(1, 300), st.sampled_from([0.0, 0.01, 0.2, 1.0]), st.integers(0, 99))
def test_the_product_is_that_of_the_columns_as_an_array(tokens: int, share: float, seed: int) -> None:
    q_TK, centres, matrix = drawn(tokens, share, seed)
    wanted = klt.centred(q_TK, centres)[:, DENSE:] @ matrix[DENSE:]
    found = split(q_TK).product(centres, matrix)
    assert found.dtype == np.float32
    assert found == pytest.approx(wanted, abs=1e-4)


def test_many_tokens_keep_their_order() -> None:
    q_TK, centres, matrix = drawn(SHORT + 9, 0.01, 5)
    wanted = klt.centred(q_TK, centres)[:, DENSE:] @ matrix[DENSE:]
    assert split(q_TK).product(centres, matrix) == pytest.approx(wanted, abs=1e-4)


def test_a_tail_without_a_zero_takes_bounded_memory() -> None:
    """What no calibration calls sparse, but a peer may send."""
    q_TK, centres, matrix = drawn(1024, 1.0, 6)
    q = split(q_TK)
    tracemalloc.start()
    q.product(centres, matrix)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 * q_TK.size + (1 << 16)
