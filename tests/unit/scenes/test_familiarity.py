"""The embedded model's own pictures are familiar to it in every form; what it never saw is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splitvlm.evaluation import command
from splitvlm.evaluation.answers import Example
from splitvlm.scenes import TRAINED_DOMAINS, draw
from splitvlm.scenes.familiarity import FORMS, warning
from splitvlm.scenes.samples import warning_about


def photograph() -> Image.Image:
    """A portrait that comes with matplotlib."""
    matplotlib = pytest.importorskip("matplotlib")
    return Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("domain", TRAINED_DOMAINS)
def test_drawn_pictures_are_familiar(domain: str, form: str) -> None:
    assert [warning(FORMS[form](draw(domain, seed).image)) for seed in range(5)] == [""] * 5


def test_a_photograph_noise_and_a_page_are_not() -> None:
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 255, (200, 300, 3), np.uint8))
    page = Image.new("RGB", (300, 400), "white")
    for row in range(20, 380, 12):
        page.paste("black", (20, row, 280, row + 5))
    for picture in (photograph(), noise, page, photograph().convert("L").rotate(90)):
        assert "knows drawn microscopy, aerial and road scenes only" in warning_about("scenes", picture)


def test_nobody_can_say_what_another_model_knows() -> None:
    assert warning_about("shape:smolvlm-256m", photograph()) == ""


def test_evaluate_says_once_how_many_pictures_are_unfamiliar(capsys: pytest.CaptureFixture[str]) -> None:
    strange, known = photograph(), draw("road", 3).image
    examples = [Example(picture, "q", "a") for picture in (strange, known, strange)]
    command._warn("scenes", Path("data.jsonl"), examples)
    assert capsys.readouterr().err.startswith("1 of 2 pictures, for one: The embedded model knows")
    command._warn("scenes", Path("data.jsonl"), examples[1:2])
    command._warn("scenes", None, examples)
    assert capsys.readouterr().err == ""
