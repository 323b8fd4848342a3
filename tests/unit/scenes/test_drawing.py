"""Laws of the drawn scenes: the same seed gives the same picture, sizes are a photograph's, answers follow the truth."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest

from splitvlm.scenes import DOMAINS, TRAINED_DOMAINS, Scene, ask, draw, held_out
from splitvlm.scenes.questions import DOMAIN_MODULES, HELD_OUT_SEEDS, SEEDS_A_RUN, TRAINED, candidates, training_seed


def _digest(scene: Scene) -> str:
    return hashlib.sha256(scene.image.tobytes()).hexdigest()


def _jpeg_bytes(scene: Scene, quality: int) -> int:
    store = io.BytesIO()
    scene.image.save(store, "JPEG", quality=quality)
    return len(store.getvalue())


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_seed_gives_one_picture(domain: str) -> None:
    first, again, other = draw(domain, 5), draw(domain, 5), draw(domain, 6)
    assert (first.image.mode, first.image.size) == ("RGB", (256, 256))
    assert _digest(first) == _digest(again) != _digest(other)
    assert (first.things, first.facts) == (again.things, again.facts)


def test_a_seed_gives_one_picture_in_another_process() -> None:
    code = "from splitvlm.scenes import draw; import hashlib as h; print(h.sha256(draw('road', 3).image.tobytes()).hexdigest())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert told == _digest(draw("road", 3))


def test_pictures_are_as_large_as_photographs() -> None:
    """Mean JPEG sizes at 256 px: about 6.9 kB at quality 75 and 13.4 kB at 90."""
    scenes = [draw(domain, seed) for domain in TRAINED_DOMAINS for seed in range(40)]
    at_75 = [_jpeg_bytes(scene, 75) for scene in scenes]
    at_90 = [_jpeg_bytes(scene, 90) for scene in scenes]
    assert np.mean(at_75) == pytest.approx(6_900, rel=0.1)
    assert np.mean(at_90) == pytest.approx(13_400, rel=0.1)
    assert np.mean([5_000 <= size <= 17_000 for size in at_75 + at_90]) > 0.9


@pytest.mark.parametrize("domain", DOMAINS)
def test_things_keep_apart_and_inside(domain: str) -> None:
    for seed in range(30):
        things = [thing for thing in draw(domain, seed).things if thing.name != "light"]
        for index, one in enumerate(things):
            assert 0 < one.x < 256
            assert 0 < one.y < 256
            for other in things[:index]:
                assert np.hypot(one.x - other.x, one.y - other.y) >= one.radius + other.radius + 4


def test_counts_reach_nine() -> None:
    for domain, name in (("microscopy", "cell"), ("aerial", "house"), ("orchard", "apple")):
        missing = set(range(10))
        for seed in range(200):
            missing.discard(len(draw(domain, seed).having(name)))
            if not missing:
                break
        assert not missing, domain


def test_the_question_of_the_readme() -> None:
    for seed in range(20):
        scene = draw("microscopy", seed)
        asked = {q.text: q.answer for attempt in range(20) for q in candidates(scene, np.random.default_rng(attempt))}
        assert asked["How many cells are infected?"] == str(len(scene.having("cell", mark="infected")))


@pytest.mark.parametrize("domain", DOMAINS)
def test_questions_are_the_same_for_a_seed_and_differ_in_wording(domain: str) -> None:
    scene = draw(domain, 4)
    assert ask(scene, 1, 6) == ask(scene, 1, 6)
    assert len(set(ask(scene, 1, 6))) == 6
    wordings = {q.text for seed in range(40) for q in ask(scene, seed, 50) if q.kind == "caption"}
    assert len(wordings) >= 3


def test_one_wording_has_one_answer() -> None:
    """No two questions about one picture read the same and are answered differently."""
    for domain in DOMAINS:
        for seed in range(20):
            scene = draw(domain, seed)
            told: dict[str, str] = {}
            for attempt in range(10):
                for question in candidates(scene, np.random.default_rng(attempt)):
                    assert told.setdefault(question.text, question.answer) == question.answer


def test_absent_things_are_asked_for() -> None:
    asked = [q for seed in range(20) for q in ask(draw("road", seed), seed, 60) if q.kind == "absent"]
    assert {q.answer for q in asked} == {"no", "0", "nowhere"}
    assert any("fire" in q.text for q in asked)


def test_held_out_pictures_were_never_trained_on() -> None:
    pairs = list(held_out(50, seed=2))
    assert len(pairs) == 50
    assert pairs == list(held_out(50, seed=2)) != list(held_out(50, seed=3))
    assert {scene.domain for scene, _ in pairs} == set(TRAINED_DOMAINS)
    assert min(scene.seed for scene, _ in pairs) >= HELD_OUT_SEEDS
    assert training_seed(2**40 + 7, SEEDS_A_RUN + 1) < HELD_OUT_SEEDS


def test_names_agree() -> None:
    assert tuple(DOMAIN_MODULES) == DOMAINS
    assert TRAINED == TRAINED_DOMAINS


def test_an_unknown_domain_is_named() -> None:
    with pytest.raises(ValueError, match="unknown domain 'moon'"):
        draw("moon", 0)


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, splitvlm.scenes as s; s.draw('aerial', 0); print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert told == "False"
