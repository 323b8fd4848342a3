"""The calibrated levels: what they restore, what they cost, what they refuse."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.calibration import level_training
from splitvlm.calibration.entropy_model_training import learn
from splitvlm.codec import calibration_file, context, entropy, klt
from splitvlm.codec.codec import Codec
from splitvlm.codec.entropy_model import MAX_COLUMNS, EntropyModel
from splitvlm.codec.grid import PLACES
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.limits import CodecLimits
from splitvlm.codec.prompt import Template
from splitvlm.codec.reconstruction import Reconstructor
from splitvlm.domain import TOKENS, Cut
from splitvlm.errors import ProtocolError, UsageError

RANDOM = np.random.default_rng(0)
CHANNELS = 48
# Features as towers make them: a few directions carry most of the variance, about a mean that is not zero.
MIX = RANDOM.normal(size=(CHANNELS, CHANNELS)) * (0.8 ** np.arange(CHANNELS))[:, None]


def features(tokens: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(tokens, CHANNELS))
    return (noise @ MIX + 3.0).astype(np.float32)


@cache
def basis() -> klt.Basis:
    transform = klt.transform_of(features(4000, 1))
    pictures = [features(64, seed) for seed in range(100, 160)]
    return klt.Basis(
        transform, {level: level_training.learn(pictures, transform, level, 8, steps=30) for level in KLT_STEPS}
    )


@cache
def codec() -> Codec:
    return Codec({TOKENS: basis()}, "calibrated")


PROMPT = np.random.default_rng(4).integers(0, 600, 36)
TEMPLATE = Template(tuple(PROMPT[:10].tolist()), tuple(PROMPT[-2:].tolist()), 600)


@cache
def short_codec() -> Codec:
    return Codec({TOKENS: replace(basis(), shape=(2, 32), template=TEMPLATE)}, "calibrated")


def crossed(x_TC: np.ndarray, level: str) -> tuple[np.ndarray, int]:
    data = codec().encode(TOKENS, {"hidden": x_TC, "ids": np.arange(9)}, level)
    back = codec().decode(TOKENS, data)
    assert np.array_equal(back["ids"], np.arange(9))
    return back["hidden"], len(data)


@pytest.mark.parametrize("level", KLT_STEPS)
def test_each_coefficient_is_within_a_step(level: str) -> None:
    x_TC = features(64, 2)
    back, _ = crossed(x_TC, level)
    step = KLT_STEPS[level]
    error_TC = (back - x_TC) @ basis().transform.analysis
    assert np.abs(error_TC).max() <= step * (1 - klt.ROUNDING) * 1.001


@pytest.mark.parametrize("level", KLT_STEPS)
def test_whatever_a_reconstructor_says_a_value_stays_in_its_cell(level: str) -> None:
    draw = np.random.default_rng(3).normal
    shapes = ((5, 40, 96), (96,), (PLACES, 96), (96, 96), (96,), (96, 40), (40,))
    wild = Reconstructor(8, 8, *(draw(scale=9.0, size=shape).astype(np.float32) for shape in shapes))
    learned = replace(basis().levels[level], reconstructor=wild)
    x_TC = features(64, 2)
    q_TC = klt.quantised(x_TC, basis().transform, level)
    y_TC = klt.restored(q_TC, learned)
    assert y_TC.shape == q_TC.shape
    assert np.array_equal(y_TC[:, 40:], klt.centred(q_TC, learned.centres)[:, 40:])
    assert not np.array_equal(y_TC, klt.centred(q_TC, learned.centres))
    outwards = np.where(q_TC < 0, -y_TC + q_TC, y_TC - q_TC)
    assert outwards.max() <= 1 - klt.ROUNDING + 1e-3
    assert outwards[q_TC != 0].min() >= -klt.ROUNDING - 1e-3
    assert np.abs(y_TC[q_TC == 0]).max() <= 1 - klt.ROUNDING + 1e-3


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
    coded = bytearray(codec().encode(TOKENS, {"hidden": features(16, 5)}, "klt2"))
    for _ in range(data.draw(st.integers(1, 4))):
        coded[data.draw(st.integers(0, len(coded) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(coded[: data.draw(st.integers(0, len(coded)))])
    with contextlib.suppress(ProtocolError):
        assert all(isinstance(value, np.ndarray) for value in codec().decode(TOKENS, damaged).values())


@pytest.mark.parametrize("level", KLT_STEPS)
def test_what_both_sides_know_is_not_sent(level: str) -> None:
    boundary = {"hidden": features(64, 2).reshape(2, 32, CHANNELS), "ids": PROMPT}
    short, long = short_codec().encode(TOKENS, boundary, level), codec().encode(TOKENS, boundary, level)
    assert len(long) - len(short) >= 20
    back, same = short_codec().decode(TOKENS, short), codec().decode(TOKENS, long)
    assert list(back) == ["hidden", "ids"]
    assert all(np.array_equal(back[name], same[name]) for name in back)
    assert short_codec().decode(TOKENS, long)["hidden"].shape == (2, 32, CHANNELS)
    with pytest.raises(ProtocolError, match="no calibration"):
        codec().decode(TOKENS, short)


def test_another_shape_dtype_or_tensor_is_sent_in_full() -> None:
    hidden, ids = features(64, 2).reshape(2, 32, CHANNELS), PROMPT
    for boundary in (
        {"hidden": hidden[:1], "ids": ids},
        {"hidden": hidden.astype(np.float16), "ids": ids},
        {"hidden": hidden},
        {"hidden": hidden, "ids": ids, "grid": ids},
        {"hidden": hidden * 1e9, "ids": ids},
        {"hidden": hidden, "ids": ids[1:]},
        {"hidden": hidden, "ids": ids * np.where(np.arange(36) == 20, 30, 1)},
    ):
        data = short_codec().encode(TOKENS, boundary, "klt2")
        assert data == codec().encode(TOKENS, boundary, "klt2")
        assert short_codec().decode(TOKENS, data)["hidden"].shape == boundary["hidden"].shape


@given(st.data())
def test_a_damaged_short_form_is_an_error_or_a_tensor_within_the_limits(data: st.DataObject) -> None:
    boundary = {"hidden": features(64, 2).reshape(2, 32, CHANNELS), "ids": PROMPT}
    coded = bytearray(short_codec().encode(TOKENS, boundary, "klt3"))
    for _ in range(data.draw(st.integers(1, 4))):
        coded[data.draw(st.integers(0, min(40, len(coded) - 1)))] = data.draw(st.integers(0, 255))
    limits = CodecLimits(max_elements=64 * CHANNELS + 100)
    with contextlib.suppress(ProtocolError):
        found = short_codec().decode(TOKENS, bytes(coded[: data.draw(st.integers(0, len(coded)))]), limits)
        assert sum(array.size for array in found.values()) <= limits.max_elements
    with pytest.raises(ProtocolError):
        short_codec().decode(
            TOKENS,
            bytes(short_codec().encode(TOKENS, boundary, "klt3")),
            CodecLimits(max_elements=64 * CHANNELS),
        )


def test_only_a_calibrated_boundary_has_the_levels() -> None:
    plain = Codec()
    assert "klt2" not in plain.levels(TOKENS)
    assert "klt2" not in codec().levels(Cut.parse("vision:1"))
    with pytest.raises(UsageError, match="klt2"):
        plain.encode(TOKENS, {"hidden": np.zeros((4, CHANNELS), np.float32)}, "klt2")
    coded = codec().encode(TOKENS, {"hidden": features(4, 1)}, "klt2")
    with pytest.raises(ProtocolError, match="no calibration"):
        plain.decode(TOKENS, coded)


def test_the_file_keeps_the_basis_and_changes_the_hash(tmp_path: Path) -> None:
    file = tmp_path / calibration_file.FILE
    calibration_file.write(file, {TOKENS: basis()})
    read = Codec.from_file(file)
    assert read.levels(TOKENS) == codec().levels(TOKENS)
    assert len({read.hash, Codec().hash, codec().hash}) == 3
    shapes = (5, 9, 96), (96,), (PLACES, 96), (96, 96), (96,), (96, 7), (7,)
    reconstructor = Reconstructor(8, 8, *(np.ones(shape, np.float32) for shape in shapes))
    levels = basis().levels | {"klt3": replace(basis().levels["klt3"], reconstructor=reconstructor)}
    calibration_file.write(file, {TOKENS: replace(basis(), levels=levels, template=TEMPLATE)})
    found = Codec.from_file(file).basis(TOKENS)
    assert found.template == TEMPLATE
    assert found.levels["klt3"].reconstructor is not None
    assert np.array_equal(found.levels["klt3"].reconstructor.first, reconstructor.first)
    assert found.levels["klt2"].reconstructor is None
    file.write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="no calibration"):
        Codec.from_file(file)


@given(st.integers(1, 40), st.integers(0, MAX_COLUMNS + 6), st.integers(0, 99), st.sampled_from((0.3, 3.0, 300.0, 3e4)))
def test_whole_numbers_come_back_from_the_stream(tokens: int, columns: int, seed: int, spread: float) -> None:
    q_TK = (
        np.random.default_rng(seed).normal(scale=spread, size=(tokens, columns)).clip(-(2**15), 2**15).astype(np.int64)
    )
    for entropy_model in (basis().levels["klt1"].entropy_model, basis().levels["klt6"].entropy_model, WIDE, NOTHING):
        back = entropy.decode(entropy.encode(q_TK, entropy_model), tokens, columns, entropy_model, dense=columns)
        assert np.array_equal(back.dense, q_TK)


NOTHING = learn([np.zeros((4, CHANNELS), np.int64)], 1)
SPREADS = 40.0 * 0.95 ** np.arange(MAX_COLUMNS + 36)
WIDE = learn(
    [RANDOM.normal(scale=SPREADS, size=(64, len(SPREADS))).round().astype(np.int64) for _ in range(40)], 8, steps=20
)


def test_many_tokens_have_the_stream_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who computes columns in blocks, and who does not, must agree to the last bit."""
    q_TK = np.random.default_rng(8).normal(0, 9, (context.MANY_TOKENS, CHANNELS - 3)).astype(np.int32)
    entropy_model = basis().levels["klt1"].entropy_model
    blocks = entropy.encode(q_TK, entropy_model)
    monkeypatch.setattr(context, "MANY_TOKENS", len(q_TK) + 1)
    assert entropy.encode(q_TK, entropy_model) == blocks
    assert np.array_equal(entropy.decode(blocks, *q_TK.shape, entropy_model, dense=CHANNELS).dense, q_TK)


def test_a_rare_value_widens_no_column() -> None:
    pictures = [np.random.default_rng(seed).integers(-3, 4, size=(64, 2)) for seed in range(65)]
    pictures[0][5] = 50
    entropy_model = learn(pictures, 8, steps=1)
    assert entropy_model.reach.tolist() == [3, 3]
    assert np.array_equal(
        entropy.decode(entropy.encode(pictures[0], entropy_model), 64, 2, entropy_model).dense, pictures[0]
    )


def test_columns_without_a_network_cost_their_entropy() -> None:
    q_TK = np.random.default_rng(8).normal(scale=SPREADS, size=(640, len(SPREADS))).round().astype(np.int64)
    q_TK[:, :MAX_COLUMNS] = 0
    bits = 8 * (len(entropy.encode(q_TK, WIDE)) - len(entropy.encode(q_TK[:, :MAX_COLUMNS], WIDE)))
    counts = [np.unique(q_T, return_counts=True)[1] / len(q_T) for q_T in q_TK[:, MAX_COLUMNS:].T]
    assert bits <= 1.04 * 640 * sum(float(-(share * np.log2(share)).sum()) for share in counts)


def test_a_few_huge_tokens_do_not_bend_the_basis() -> None:
    x_NC = features(4000, 1)
    sinks = x_NC.copy()
    sinks[::1000] *= 1000
    assert np.allclose(klt.transform_of(sinks).mean, x_NC.mean(axis=0), atol=0.02)
    back, size = crossed(sinks[1000:1064], "klt1")
    assert np.abs((back - sinks[1000:1064])[0]).max() < 1e-3 * np.abs(sinks[1000]).max()
    assert size < 2 * crossed(x_NC[1000:1064], "klt1")[1]


def test_an_entropy_model_is_exact_whatever_the_order_of_sums() -> None:
    """Products of an entropy model's matrices stay whole and below 2^24, where float32 holds every one."""
    for learned in basis().levels.values():
        assert _largest_sum(learned.entropy_model) < 2**24


def _largest_sum(entropy_model: EntropyModel) -> float:
    largest = 0.0
    for column in range(entropy_model.columns):
        hidden = 56 * np.abs(entropy_model.first[column]).sum(axis=0) + np.abs(entropy_model.first_bias[column])
        logits = 255 * np.abs(entropy_model.second[column]).sum(axis=0) + np.abs(entropy_model.second_bias[column])
        largest = max(largest, float(hidden.max()), float(logits.max()))
        for part in (entropy_model.first[column], entropy_model.second[column], entropy_model.second_bias[column]):
            assert np.array_equal(part, part.round())
    return largest


def test_what_neighbours_and_earlier_columns_tell_is_not_sent_again() -> None:
    """Columns 1 and 2 follow from column 0: what they cost under a learned entropy model is a part of their own entropy."""
    random = np.random.default_rng(7)

    def picture() -> np.ndarray:
        first = random.integers(-3, 4, size=64)
        return np.stack([first, np.abs(first), np.roll(first, 8) * (np.arange(64) >= 8)], axis=1)

    entropy_model = learn([picture() for _ in range(60)], 8, steps=900)
    unseen = [picture() for _ in range(20)]
    mean_bits = 8 * np.mean([len(entropy.encode(q_TK, entropy_model)) for q_TK in unseen]) / 64
    assert mean_bits < 4.5  # of 7.6, were the columns independent
