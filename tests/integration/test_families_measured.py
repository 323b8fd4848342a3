"""What is measured and learned of a model works for every family: `calibrate`, `evaluate --plans`, the features of `leak`.

By tiny models, with one step of training, in this process: of what a figure is worth nothing is said here.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from splitvlm.bundle import open_bundle
from splitvlm.calibration.calibrate import QUESTIONS, _in_folder, calibrate
from splitvlm.calibration.level_training import learn
from splitvlm.domain import IMAGE, TOKENS, Cut
from splitvlm.errors import UsageError
from splitvlm.evaluation import plan_accuracy
from splitvlm.evaluation.answers import drawn
from splitvlm.evaluation.leak import measure
from splitvlm.evaluation.plan_accuracy import measure_plans
from splitvlm.model.boundary import HIDDEN, to_arrays
from splitvlm.model.loading import load_device, middle_cuts
from splitvlm.model.prompt import Prompt
from tests.tiny_models import FAMILIES, picture, save

PICTURES = 12


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One training for all levels, no processes, few tokens."""
    learned: dict[int, Any] = {}

    def once(seen: Any, transform: Any, level: str, stride: int, *, steps: int) -> Any:
        if id(transform) not in learned:
            learned[id(transform)] = learn(seen, transform, "klt8", stride, steps=steps)
        return learned[id(transform)]

    def in_process(_workers: int, begin: Any = None, *arguments: Any) -> Executor:
        return ThreadPoolExecutor(1, initializer=begin, initargs=arguments)

    monkeypatch.setattr("splitvlm.calibration.calibrate.learn", once)
    monkeypatch.setattr("splitvlm.calibration.calibrate.TOKENS_PER_CHANNEL", 1)
    monkeypatch.setattr("splitvlm.calibration.calibrate.worker_pool", in_process)
    monkeypatch.setattr(plan_accuracy, "worker_pool", in_process)
    monkeypatch.setattr(plan_accuracy, "_process_state", [])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_is_calibrated_and_measured(kind: str, tmp_path: Path) -> None:
    name = str(save(kind, tmp_path / "model"))
    calibrate(name, None, PICTURES, steps=1)
    bundle = open_bundle(name)
    codec = bundle.codec
    cuts = middle_cuts(name)
    assert set(codec.channels) == set(cuts) - {IMAGE}
    part = load_device(name, cuts)
    for cut in codec.channels:
        boundary = to_arrays(part.lower(Prompt.about(picture(64, 64), "Is it?"), cut).boundary)
        back = codec.decode(cut, codec.encode(cut, boundary, "klt3"))
        assert back[HIDDEN].shape == boundary[HIDDEN].shape
    plans = measure_plans(
        name, bundle, cuts, islice(drawn(2, 0), 2), lambda done, total: None, levels=["klt3", "webp90"]
    )
    assert {plan.partition("/")[0] for plan in plans} == set(map(str, cuts))
    assert {plan for plan in plans if plan.endswith("klt3")} == {f"{cut}/klt3" for cut in codec.channels}


def test_pictures_of_a_folder_are_asked_about_in_several_kinds_of_text(tmp_path: Path) -> None:
    for number in range(10):
        picture(16, 16, number).save(tmp_path / f"{number}.png")
    asked = [question for _, question in _in_folder(tmp_path, 9)]
    assert asked == [*QUESTIONS, QUESTIONS[0]]
    assert len(set(asked)) == 8


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    name = str(save("scenes-like", tmp_path / "model"))
    with pytest.raises(UsageError, match=r"model holds no pictures\. They end in \.png"):
        calibrate(name, tmp_path / "model", PICTURES)


@pytest.mark.parametrize(
    ("kind", "vision_tokens", "visual_tokens"), [("scenes-like", 64, 16), ("qwen2.5-vl", 64, 16), ("gemma3", 16, 4)]
)
def test_families_of_one_piece_have_features_to_attack(
    kind: str, vision_tokens: int, visual_tokens: int, tmp_path: Path
) -> None:
    assert features(kind, tmp_path) == [vision_tokens, visual_tokens, visual_tokens]


@pytest.mark.parametrize("kind", ["idefics3", "llava-onevision"])
def test_families_of_many_pieces_are_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"tokens form no square: the attacker knows pictures in one square piece only"
    ):
        features(kind, tmp_path)


def features(kind: str, folder: Path) -> list[int]:
    """How many tokens an attacker gets of a square picture, from shallow to deep."""
    name = str(save(kind, folder / "model"))
    cuts = (Cut.parse("vision:1"), TOKENS, Cut.parse("lm:1"))
    part, codec = load_device(name, cuts), open_bundle(name).codec
    return [len(measure._features(part, codec, cut, "lossless", picture(64, 64))) for cut in cuts]
