"""The calibrated levels: what they restore, what they cost, what they refuse."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.codec import calibration, klt
from splitvlm.codec.codec import Codec
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.domain import TOKENS, Cut
from splitvlm.errors import ProtocolError, UsageError

RANDOM = np.random.default_rng(0)
CHANNELS = 48
# Features as towers make them: a few directions carry most of the variance, about a mean that is not zero.
MIX = RANDOM.normal(size=(CHANNELS, CHANNELS)) * (0.8 ** np.arange(CHANNELS))[:, None]


def features(tokens: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(tokens, CHANNELS))
    return (noise @ MIX + 3.0).astype(np.float32)


BASIS = klt.basis_of(features(4000, 1))
CODEC = Codec({TOKENS: BASIS}, "calibrated")


def crossed(x_TC: np.ndarray, level: str) -> tuple[np.ndarray, int]:
    data = CODEC.encode(TOKENS, {"hidden": torch.from_numpy(x_TC), "ids": torch.arange(9)}, level)
    back = CODEC.decode(TOKENS, data)
    assert torch.equal(back["ids"], torch.arange(9))
    return back["hidden"].numpy(), len(data)


@pytest.mark.parametrize("level", KLT_STEPS)
def test_each_coefficient_is_within_a_step(level: str) -> None:
    x_TC = features(64, 2)
    back, _ = crossed(x_TC, level)
    step = KLT_STEPS[level]
    error_TC = (back - x_TC) @ BASIS.analysis
    assert np.abs(error_TC).max() <= step * (1 - klt.ROUNDING) * 1.001


def test_coarser_levels_cost_less_and_all_less_than_groups() -> None:
    x_TC = features(64, 3)
    sizes = [crossed(x_TC, level)[1] for level in KLT_STEPS]
    assert sizes == sorted(sizes, reverse=True)
    errors = {level: np.square(crossed(x_TC, level)[0] - x_TC).mean() for level in ("int4", *KLT_STEPS)}
    cheaper = [crossed(x_TC, level)[1] for level in KLT_STEPS if errors[level] <= errors["int4"]]
    assert cheaper
    assert min(cheaper) < crossed(x_TC, "int4")[1]


@given(st.integers(1, 70), st.sampled_from(list(KLT_STEPS)), st.floats(0.0, 1e6), st.integers(0, 99))
def test_any_size_of_features_comes_back_finite(tokens: int, level: str, factor: float, seed: int) -> None:
    x_TC = features(tokens, seed) * np.float32(factor)
    back, _ = crossed(x_TC, level)
    assert back.shape == x_TC.shape
    assert np.isfinite(back).all()


@given(st.data())
def test_damaged_bytes_are_an_error_or_a_tensor(data: st.DataObject) -> None:
    coded = bytearray(CODEC.encode(TOKENS, {"hidden": torch.from_numpy(features(16, 5))}, "klt2"))
    for _ in range(data.draw(st.integers(1, 4))):
        coded[data.draw(st.integers(0, len(coded) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(coded[: data.draw(st.integers(0, len(coded)))])
    with contextlib.suppress(ProtocolError):
        assert all(isinstance(value, torch.Tensor) for value in CODEC.decode(TOKENS, damaged).values())


def test_only_a_calibrated_boundary_has_the_levels() -> None:
    plain = Codec()
    assert "klt2" not in plain.levels(TOKENS)
    assert "klt2" not in CODEC.levels(Cut.parse("vision:1"))
    with pytest.raises(UsageError, match="klt2"):
        plain.encode(TOKENS, {"hidden": torch.zeros(4, CHANNELS)}, "klt2")
    coded = CODEC.encode(TOKENS, {"hidden": torch.from_numpy(features(4, 1))}, "klt2")
    with pytest.raises(ProtocolError, match="no calibration"):
        plain.decode(TOKENS, coded)


def test_the_file_keeps_the_basis_and_changes_the_hash(tmp_path: Path) -> None:
    file = tmp_path / calibration.FILE
    calibration.write(file, {TOKENS: BASIS})
    read = Codec.from_file(file)
    assert read.levels(TOKENS) == CODEC.levels(TOKENS)
    assert len({read.hash, Codec().hash, CODEC.hash}) == 3
    file.write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="no calibration"):
        Codec.from_file(file)
