"""What calibration asks of the undivided model: it must run for every family, whatever tells its tokens apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from splitvlm.calibration.sensitivity import sensitivity
from splitvlm.domain import TOKENS, Cut
from splitvlm.model.loading import load_whole, read_spec
from splitvlm.model.processors import prompt_inputs
from splitvlm.model.prompt import Prompt
from tests.tiny_models import FAMILIES, picture, save

ASKED = [(picture(96, 48, 2), "Is it day?")]


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_tells_what_its_answers_depend_on(kind: str, tmp_path: Path) -> None:
    name = str(save(kind, tmp_path))
    spec = read_spec(name)
    for cut, channels in (
        (Cut.parse("vision:1"), spec.vision_hidden),
        (TOKENS, spec.lm_hidden),
        (Cut.parse("lm:1"), spec.lm_hidden),
    ):
        found = sensitivity(name, ASKED, cut)
        assert found.shape == (channels, channels)
        assert np.allclose(found, found.T)
        assert np.trace(found) > 0, cut


def test_two_families_tell_their_tokens_apart_in_further_inputs(tmp_path: Path) -> None:
    """The inputs by which this failed: a family that gets another must pass the test above by it."""
    further = {}
    for kind in FAMILIES:
        made = prompt_inputs(
            load_whole(str(save(kind, tmp_path / kind)))[1], Prompt.about(picture(64, 64), "How many?")
        )
        ids = made["input_ids"].shape
        further[kind] = {name for name, value in made.items() if value.shape == ids} - {"input_ids", "attention_mask"}
    assert further["qwen2.5-vl"] == {"mm_token_type_ids"}
    assert further["gemma3"] >= {"token_type_ids"}


def test_a_model_that_answers_with_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled answers hold any token sooner or later; one that stands for a picture would have none."""
    name = str(save("idefics3", tmp_path))
    model, processor = load_whole(name)
    preferred = torch.zeros(model.lm_head.out_features)
    preferred[model.config.image_token_id] = 50.0
    model.lm_head.bias = torch.nn.Parameter(preferred, requires_grad=False)
    monkeypatch.setattr("splitvlm.calibration.sensitivity.load_whole", lambda name: (model, processor))
    assert np.isfinite(sensitivity(name, ASKED, Cut.parse("lm:1"))).all()
