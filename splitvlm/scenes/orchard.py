"""Fruit on a tree before picking: ripe and rotten apples, a ladder, a basket, a bird.

This domain is drawn and its words are in the tokenizer, but the embedded model is never trained on it: it is there
for fine-tuning, which shows by it that a model can be taught a new field of use.
"""

from __future__ import annotations

import numpy as np
from PIL import ImageDraw

from splitvlm.scenes import canvas, phrases
from splitvlm.scenes.phrasing import counted, listed, put, yes
from splitvlm.scenes.scene import EDGE, Scene, SceneQuestion, Thing, select

NAME = "orchard"
MOST_APPLES = 9
APPLES: dict[str, canvas.Colour] = {"ripe": (206, 48, 52), "rotten": (122, 84, 52)}
EXTRAS = ("ladder", "basket", "bird")
LABELS = (*(f"{state} apple" for state in APPLES), *EXTRAS)


def draw(rng: np.random.Generator, seed: int) -> Scene:
    """Draws the picture of that seed; `rng` is seeded by domain and seed."""
    picture = canvas.ground(rng, (96, 136, 74), (128, 160, 96), int(rng.integers(4, 9)), rng.uniform(3, 6))
    pen = ImageDraw.Draw(picture)
    _leaves(rng, pen)
    things = _layout(rng)
    for thing in things:
        _PAINTERS[thing.name](rng, pen, thing)
    facts = {state: len(select(things, "apple", mark=state)) for state in APPLES}
    return Scene(canvas.photograph(rng, picture), NAME, seed, tuple(things), facts)


def _layout(rng: np.random.Generator) -> list[Thing]:
    occupied: list[tuple[float, float, float]] = []
    things = []
    for name, radius in zip(EXTRAS, (30, 20, 15), strict=True):
        spot = canvas.place(rng, occupied, radius, gap=8) if rng.random() < 0.4 else None
        if spot is not None:
            things.append(Thing(name, "", *spot, radius))
    for _ in range(int(rng.integers(0, MOST_APPLES + 1))):
        spot = canvas.place(rng, occupied, 14, gap=8)
        if spot is not None:
            things.append(Thing("apple", "", *spot, 14, "ripe" if rng.random() < 0.6 else "rotten"))
    return things


def _leaves(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    for x, y, turn in rng.uniform((0, 0, 0), (EDGE, EDGE, np.pi), (70, 3)).tolist():
        leaf = canvas.tint(rng, (96, 146, 72), 22)
        pen.polygon(canvas.turned_box(x, y, rng.uniform(10, 18), rng.uniform(4, 7), turn), fill=leaf)


def _apple(rng: np.random.Generator, pen: ImageDraw.ImageDraw, apple: Thing) -> None:
    skin = canvas.tint(rng, APPLES[apple.mark], 12)
    pen.polygon(canvas.blob(rng, apple.x, apple.y, 12, 0.06), fill=skin, outline=canvas.shade(skin, 0.7), width=2)
    pen.line((apple.x, apple.y - 11, apple.x + 2, apple.y - 16), fill=(70, 50, 30), width=2)
    if apple.mark == "rotten":
        for _ in range(3):
            x, y = apple.x + rng.uniform(-5, 5), apple.y + rng.uniform(-5, 5)
            canvas.disc(pen, x, y, rng.uniform(1.5, 2.8), (48, 32, 24))
    else:
        canvas.disc(pen, apple.x - 4, apple.y - 4, 2.4, (244, 190, 180))


def _ladder(rng: np.random.Generator, pen: ImageDraw.ImageDraw, ladder: Thing) -> None:
    wood = canvas.tint(rng, (202, 172, 120), 12)
    for side in (-9, 9):
        pen.line((ladder.x + side, ladder.y - 28, ladder.x + side, ladder.y + 28), fill=wood, width=3)
    for rung in range(-24, 28, 10):
        pen.line((ladder.x - 9, ladder.y + rung, ladder.x + 9, ladder.y + rung), fill=wood, width=2)


def _basket(rng: np.random.Generator, pen: ImageDraw.ImageDraw, basket: Thing) -> None:
    cane = canvas.tint(rng, (176, 128, 66), 12)
    x, y = basket.x, basket.y
    pen.arc((x - 15, y - 18, x + 15, y + 14), 180, 360, fill=cane, width=2)
    pen.polygon([(x - 18, y), (x + 18, y), (x + 13, y + 17), (x - 13, y + 17)], fill=cane)
    for row in (5, 11):
        pen.line((x - 15, y + row, x + 15, y + row), fill=canvas.shade(cane, 0.7), width=1)


def _bird(rng: np.random.Generator, pen: ImageDraw.ImageDraw, bird: Thing) -> None:
    feathers = canvas.tint(rng, (44, 60, 120), 12)
    x, y = bird.x, bird.y
    pen.ellipse((x - 11, y - 5, x + 8, y + 7), fill=feathers)
    canvas.disc(pen, x + 8, y - 5, 5, canvas.shade(feathers, 1.2))
    pen.polygon([(x + 12, y - 6), (x + 17, y - 4), (x + 12, y - 3)], fill=(240, 180, 40))


_PAINTERS = {"apple": _apple, "ladder": _ladder, "basket": _basket, "bird": _bird}


def ask(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Returns one question of each sort that this picture decides."""
    apples = scene.having("apple")
    questions = [
        SceneQuestion("apples", put(rng, phrases.COUNT, things="apples"), str(len(apples))),
        SceneQuestion("caption", put(rng, phrases.CAPTION), caption(scene)),
        SceneQuestion(
            "comparison",
            put(rng, phrases.MORE, things="ripe apples", others="rotten apples"),
            yes(scene.facts["ripe"] > scene.facts["rotten"]),
        ),
    ]
    for state in APPLES:
        count = scene.facts[state]
        questions.append(
            SceneQuestion(f"{state} apples", put(rng, phrases.COUNT, things=f"{state} apples"), str(count))
        )
        questions.append(
            SceneQuestion("presence", put(rng, phrases.PRESENCE, thing=f"a {state} apple"), yes(count > 0))
        )
    for name in EXTRAS:
        extras = scene.having(name)
        questions.append(SceneQuestion("presence", put(rng, phrases.PRESENCE, thing=f"a {name}"), yes(bool(extras))))
        corner = extras[0].corner if extras else "nowhere"
        if corner:
            questions.append(SceneQuestion("position", put(rng, phrases.WHERE, the=f"the {name}"), corner))
    return questions


def caption(scene: Scene) -> str:
    """Returns what stands in the picture, apples first, as one phrase."""
    parts = [f"{counted(scene.facts[s], s + ' apple')}" for s in APPLES if scene.facts[s]]
    parts += [f"a {name}" for name in EXTRAS if scene.having(name)]
    return listed(parts, "only leaves")
