"""Long bands that are zero nearly everywhere: gaps and values."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.codec import entropy, gaps
from splitvlm.codec.context import MANY_TOKENS
from splitvlm.codec.entropy_model import MAX_REACH, REST, EntropyModel
from splitvlm.errors import ProtocolError

NO_NETWORKS = {
    "stride": 32,
    "rows": 0,
    "reach": np.zeros(0, np.int64),
    "first": (),
    "first_bias": (),
    "second": (),
    "second_bias": (),
    "shifts": np.zeros((0, 2), np.int64),
}
BANDS = EntropyModel(
    **NO_NETWORKS,
    bands=tuple(
        np.array(weights, np.float32)
        for weights in ((5, 900, 30000, 900, 5, 1), (300, 65535, 300, 1), (1, 65535, 1, 1), (20, 300, 20, 1))
    ),
)
COLUMNS = 8 * len(BANDS.bands) + 5  # the last five share REST


@given(st.sets(st.integers(0, 3000)))
def test_places_come_back(chosen: set[int]) -> None:
    places = np.array(sorted(chosen), np.int64)
    symbols = gaps.symbols_of(places)
    assert symbols.dtype == np.int32
    assert symbols.max(initial=0) <= gaps.LONGEST
    assert np.array_equal(gaps.places_of(symbols), places)


def drawn(share: float, seed: int, tokens: int = MANY_TOKENS) -> np.ndarray:
    random = np.random.default_rng(seed)
    q_TK = random.integers(-2, 3, (tokens, COLUMNS)) * (random.random((tokens, COLUMNS)) < share)
    q_TK[random.integers(tokens), random.integers(COLUMNS)] = 2**20  # an escape
    return q_TK


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("tokens", [MANY_TOKENS - 1, MANY_TOKENS, MANY_TOKENS + 77])
def test_any_share_of_values_comes_back(share: float, tokens: int) -> None:
    q_TK = drawn(share, 1, tokens)
    for columns in (1, 8, 21, COLUMNS):
        stream = entropy.encode(q_TK[:, :columns], BANDS)
        for dense in (0, 9, columns):
            back = entropy.decode(stream, tokens, columns, BANDS, dense=dense)
            assert back.dense.shape[1] >= min(dense, columns)
            after_TK = q_TK[:, back.dense.shape[1] : columns].T.reshape(-1)
            assert np.array_equal(back.dense, q_TK[:, : back.dense.shape[1]])
            assert np.array_equal(back.places - back.dense.size, np.flatnonzero(after_TK))
            assert np.array_equal(back.values, after_TK[after_TK != 0])


def test_a_band_costs_its_entropy_and_how_many_values_it_holds() -> None:
    entropy_model = EntropyModel(**NO_NETWORKS, bands=(np.array([600, 60000, 600, 1], np.float32),))
    random = np.random.default_rng(2)
    q_TK = random.choice([-1, 0, 1], (2000, 8), p=[0.0098, 0.9804, 0.0098])
    shares = np.unique(q_TK, return_counts=True)[1] / q_TK.size
    ideal_bits = -q_TK.size * float((shares * np.log2(shares)).sum())
    assert gaps.pays(len(q_TK), q_TK.size, entropy_model.bands[0])
    assert 8 * len(entropy.encode(q_TK, entropy_model)) <= 1.01 * ideal_bits + 14 + 32  # the coder's last word


@pytest.mark.parametrize("weights", [(1, 65535, 1, 1), (8, 80, 8, 4), tuple(REST), (1, 1e6, 1, 1)])
def test_weights_stay_whole_and_below_the_coders_precision(weights: tuple[float, ...]) -> None:
    for found in gaps.models_of(np.array(weights, np.float32)):
        assert np.array_equal(found, np.rint(found))
        assert found.min() >= 1
        assert found.sum(dtype=np.float64) < 2**24


@given(st.data())
def test_a_damaged_stream_is_an_error_or_an_array(data: st.DataObject) -> None:
    stream = bytearray(STREAM)
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(stream)))
    with contextlib.suppress(ProtocolError):
        q_TK = entropy.decode(bytes(stream[:cut]), MANY_TOKENS, COLUMNS, BANDS, dense=COLUMNS).dense
        assert q_TK.shape == (MANY_TOKENS, COLUMNS)
        assert np.abs(q_TK).max() <= entropy.LARGEST + MAX_REACH + 1


STREAM = entropy.encode(drawn(0.02, 3), BANDS)
