"""Questions about drawn scenes: the domain's own, the ones that every domain shares, and those about absent things."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np

from splitvlm.scenes import aerial, microscopy, orchard, phrases, road
from splitvlm.scenes.phrasing import put
from splitvlm.scenes.scene import Scene, SceneQuestion

DOMAIN_MODULES: dict[str, ModuleType] = {m.NAME: m for m in (microscopy, aerial, road, orchard)}
TRAINED = (microscopy.NAME, aerial.NAME, road.NAME)
HELD_OUT_SEEDS = 1 << 48  # seeds from here on are never trained on
SEEDS_A_RUN = 1 << 28  # pictures of one run of `held_out` or of training
QUESTIONS_A_PICTURE = 4

# What only this domain has: (plural, singular with its article). The others answer "0" and "no".
_THINGS = {
    microscopy.NAME: (("cells", "a cell"), ("infected cells", "an infected cell"), ("red cells", "a red cell")),
    aerial.NAME: (("houses", "a house"), ("lakes", "a lake"), ("forests", "a forest"), ("fires", "a fire")),
    road.NAME: (("cars", "a car"), ("pedestrians", "a pedestrian"), ("traffic lights", "a traffic light")),
}


def draw(domain: str, seed: int) -> Scene:
    """Returns the picture of that domain and seed: the same on every call and machine (Pillow's drawing is its only input)."""
    if domain not in DOMAIN_MODULES:
        raise ValueError(f"unknown domain {domain!r}: expected one of {', '.join(DOMAIN_MODULES)}")
    rng = np.random.default_rng([list(DOMAIN_MODULES).index(domain), seed])
    scene: Scene = DOMAIN_MODULES[domain].draw(rng, seed)
    return scene


def ask(
    scene: Scene,
    rng: np.random.Generator | int,
    n: int = QUESTIONS_A_PICTURE,
    weights: Mapping[str, float] | None = None,
) -> list[SceneQuestion]:
    """Returns `n` different questions about the scene (fewer where it has fewer), by kind first, then within the kind.

    `weights` makes kinds likelier than 1 (training asks more for counts).
    """
    rng = np.random.default_rng(rng)
    by_kind: dict[str, list[SceneQuestion]] = {}
    for question in candidates(scene, rng):
        by_kind.setdefault(question.kind, []).append(question)
    questions: list[SceneQuestion] = []
    while by_kind and len(questions) < n:
        kinds = list(by_kind)
        odds = np.array([(weights or {}).get(kind, 1.0) for kind in kinds])
        kind = kinds[int(rng.choice(len(kinds), p=odds / odds.sum()))]
        questions.append(by_kind[kind].pop(int(rng.integers(len(by_kind[kind])))))
        if not by_kind[kind]:
            del by_kind[kind]
    return questions


def candidates(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Returns every sort of question that can be put about the scene, each in one phrasing."""
    own: list[SceneQuestion] = DOMAIN_MODULES[scene.domain].ask(scene, rng)
    return [*own, SceneQuestion("domain", put(rng, phrases.DOMAIN), scene.domain), *_absent(scene, rng)]


def _absent(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Returns questions about what only other domains have."""
    questions = []
    for domain, things in _THINGS.items():
        if domain == scene.domain:
            continue
        plural, singular = things[int(rng.integers(len(things)))]
        questions.append(SceneQuestion("absent", put(rng, phrases.PRESENCE, thing=singular), "no"))
        questions.append(SceneQuestion("absent", put(rng, phrases.COUNT, things=plural), "0"))
    if scene.domain != microscopy.NAME:
        questions.append(SceneQuestion("absent", put(rng, phrases.COUNT_INFECTED), "0"))
        questions.append(SceneQuestion("absent", put(rng, phrases.ANY_INFECTED), "no"))
    if scene.domain != road.NAME:
        questions.append(SceneQuestion("absent", put(rng, phrases.LIGHT), "none"))
    if scene.domain != aerial.NAME:
        questions.append(SceneQuestion("absent", put(rng, phrases.WHERE, the="the lake"), "nowhere"))
    return questions


def held_out(
    questions: int, seed: int = 0, domains: tuple[str, ...] = TRAINED
) -> Iterator[tuple[Scene, SceneQuestion]]:
    """Yields that many questions, four to a picture, about pictures that no training run can have drawn."""
    left = questions
    for index in range(questions):
        number = HELD_OUT_SEEDS + seed * SEEDS_A_RUN + index
        scene = draw(domains[index % len(domains)], number)
        for question in ask(scene, np.random.default_rng([97, number]), min(left, QUESTIONS_A_PICTURE)):
            yield scene, question
            left -= 1
        if left <= 0:
            return


def training_seed(seed: int, index: int) -> int:
    """Returns the picture seed of the index-th picture of a training run; below all held-out seeds."""
    number = (seed % (1 << 20)) * SEEDS_A_RUN + index % SEEDS_A_RUN
    assert number < HELD_OUT_SEEDS
    return number
