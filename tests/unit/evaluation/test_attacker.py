"""The attacker: it finds what is there, admits what is not, and its measures of likeness are what they are called."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from splitvlm.evaluation.leak.attacker import around, patched, psnr, side, ssim, train, unpatched

EDGE, GRID, CHANNELS = 32, 4, 12
RANDOM = np.random.default_rng(0)
MIX = RANDOM.normal(size=(3 * (EDGE // GRID) ** 2, CHANNELS)).astype(np.float32)


def pictures(count: int, seed: int) -> list[np.ndarray]:
    """Smooth colours: a patch is told by a few numbers."""
    draw = np.random.default_rng(seed)
    small = [Image.fromarray(draw.integers(0, 255, (5, 5, 3), dtype=np.uint8)) for _ in range(count)]
    return [np.asarray(one.resize((EDGE, EDGE), Image.Resampling.BICUBIC)) for one in small]


def seen(picture: np.ndarray) -> np.ndarray:
    return np.tanh(patched(picture / 255, GRID) @ MIX / 20).astype(np.float32)


def test_what_features_hold_comes_back() -> None:
    taught, attacked = pictures(120, 1), pictures(10, 2)
    attacker = train([seen(one) for one in taught], taught)
    grey = np.full((EDGE, EDGE, 3), 128, np.uint8)
    for one in attacked:
        back = attacker.picture(seen(one))
        assert back.shape == one.shape
        assert psnr(back, one) > psnr(grey, one) + 4
        assert ssim(back, one) > ssim(grey, one)


def test_features_that_hold_nothing_give_nothing() -> None:
    taught, attacked = pictures(60, 1), pictures(10, 2)
    noise = np.random.default_rng(3)
    blind = [noise.normal(size=(GRID * GRID, CHANNELS)).astype(np.float32) for _ in taught]
    attacker = train(blind, taught)
    mean = np.mean(taught, axis=0).round().astype(np.uint8)
    gain = [psnr(attacker.picture(blind[n]), one) - psnr(mean, one) for n, one in enumerate(attacked)]
    assert np.mean(gain) < 0.5


def test_patches_come_back_and_neighbours_stand_around() -> None:
    one = pictures(1, 5)[0]
    assert np.array_equal(unpatched(patched(one, GRID), EDGE), one)
    tokens = np.arange(GRID * GRID, dtype=np.float32)[:, None]
    assert around(tokens)[5].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert around(tokens)[0].tolist() == [0, 0, 1, 0, 0, 1, 4, 4, 5]
    with pytest.raises(ValueError, match="no square"):
        side(tokens[:-1])


def test_likeness() -> None:
    one = pictures(1, 6)[0]
    assert psnr(one, one) == 99.0
    assert ssim(one, one) == pytest.approx(1.0)
    off = np.clip(one.astype(int) + 10, 0, 255).astype(np.uint8)
    assert psnr(one, off) == pytest.approx(28.1, abs=1.0)
    assert 0 < ssim(one, off) < 1


def test_structural_similarity_is_scikit_image_s_at_windows_side_by_side() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    picture, other = pictures(2, 7)
    blended = (0.7 * picture + 0.3 * other).astype(np.uint8)
    greys = (image.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) for image in (picture, blended))
    _, everywhere = metrics.structural_similarity(
        *greys, win_size=7, data_range=255, full=True, use_sample_covariance=False
    )
    windows = EDGE // 7
    at_centres = everywhere[3::7, 3::7][:windows, :windows]
    assert ssim(picture, blended, window=7) == pytest.approx(at_centres.mean(), abs=1e-9)
