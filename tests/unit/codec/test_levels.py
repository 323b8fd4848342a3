"""The ladder: which levels a cut has, and that reading it needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from splitvlm.codec import FEATURE_LEVELS, PICTURE_LEVELS, codec_hash, error_bound, levels_of
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut
from splitvlm.errors import UsageError


def test_levels_of_every_kind_of_cut() -> None:
    assert levels_of(IMAGE) == PICTURE_LEVELS
    assert levels_of(DEVICE) == ("none",)
    assert levels_of(TOKENS) == levels_of(Cut.parse("lm:3")) == levels_of(Cut.parse("vision:2")) == FEATURE_LEVELS
    assert FEATURE_LEVELS[0] == PICTURE_LEVELS[0] == "lossless"


@pytest.mark.parametrize(("cut", "level"), [("image", "int4"), ("tokens", "jpeg75"), ("device", "int8"), ("lm:2", "")])
def test_an_unknown_level_names_the_known_ones(cut: str, level: str) -> None:
    with pytest.raises(UsageError, match=levels_of(Cut.parse(cut))[-1]):
        Codec().check(Cut.parse(cut), level)


def test_every_level_is_known_to_its_cut() -> None:
    for cut in (IMAGE, TOKENS, DEVICE):
        for level in levels_of(cut):
            Codec().check(cut, level)


def test_bounds_rise_along_the_ladder() -> None:
    bounds = [error_bound(level) for level in FEATURE_LEVELS]
    assert bounds[0] == 0.0
    assert bounds == sorted(bounds)


def test_the_ladder_loads_neither_torch_nor_numpy() -> None:
    loaded = "'torch' in sys.modules, 'numpy' in sys.modules"
    script = f"import sys; from splitvlm.codec import codec_hash; print(codec_hash(), {loaded})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [codec_hash(), "False", "False"]
