"""The country from above: a lake, a forest and a fire, each there or not, and houses with red or grey roofs."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from splitvlm.scenes import canvas, phrases
from splitvlm.scenes.phrasing import counted, listed, put, yes
from splitvlm.scenes.scene import EDGE, Scene, SceneQuestion, Thing, select

NAME = "aerial"
MOST_HOUSES = 9
ROOFS: dict[str, canvas.Colour] = {"red": (186, 64, 48), "grey": (128, 130, 138)}
LANDMARKS = ("lake", "forest", "fire")
LABELS = (*LANDMARKS, *(f"{colour} house" for colour in ROOFS))
SOILS = (((146, 170, 98), (172, 184, 116)), ((186, 172, 122), (166, 160, 104)), ((160, 178, 118), (190, 182, 134)))
Circles = list[tuple[float, float, float]]


def draw(rng: np.random.Generator, seed: int) -> Scene:
    """Draws the picture of that seed; `rng` is seeded by domain and seed."""
    low, high = SOILS[rng.integers(len(SOILS))]
    picture = canvas.ground(rng, low, high, int(rng.integers(4, 9)), rng.uniform(3, 6))
    pen = ImageDraw.Draw(picture)
    _fields(rng, picture)
    things = _layout(rng)
    for thing in things:
        _PAINTERS[thing.name](rng, pen, thing)
    image = canvas.photograph(rng, picture)
    facts = {name: bool(select(things, name)) for name in LANDMARKS}
    return Scene(image, NAME, seed, tuple(things), {**facts, "houses": len(select(things, "house"))})


def _layout(rng: np.random.Generator) -> list[Thing]:
    occupied: Circles = []
    things = []
    for name, radius in (("lake", rng.uniform(30, 44)), ("forest", rng.uniform(30, 44)), ("fire", rng.uniform(13, 18))):
        is_drawn = rng.random() < 0.5
        spot = canvas.place(rng, occupied, radius, gap=14) if is_drawn else None
        if spot is not None:
            things.append(Thing(name, "", *spot, radius))
    for _ in range(int(rng.integers(0, MOST_HOUSES + 1))):
        spot = canvas.place(rng, occupied, 13, gap=20)
        if spot is not None:
            things.append(Thing("house", "red" if rng.random() < 0.5 else "grey", *spot, 13))
    return things


def _fields(rng: np.random.Generator, picture: Image.Image) -> None:
    """Draws ploughed and mown patches, half transparent over the soil."""
    pen = ImageDraw.Draw(picture, "RGBA")
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(0, EDGE, 2)
        corners = canvas.turned_box(x, y, rng.uniform(50, 130), rng.uniform(40, 100), rng.uniform(0, 3.1))
        pen.polygon(corners, fill=(*canvas.tint(rng, (170, 162, 96), 30), 90))


def _lake(rng: np.random.Generator, pen: ImageDraw.ImageDraw, lake: Thing) -> None:
    water = canvas.tint(rng, (58, 108, 158), 12)
    pen.polygon(canvas.blob(rng, lake.x, lake.y, lake.radius, 0.14), fill=water, outline=(196, 190, 150), width=2)
    for _ in range(12):  # ripples
        x, y = lake.x + rng.uniform(-0.6, 0.6) * lake.radius, lake.y + rng.uniform(-0.6, 0.6) * lake.radius
        pen.line((x, y, x + rng.uniform(4, 10), y), fill=canvas.shade(water, 1.15), width=1)


def _forest(rng: np.random.Generator, pen: ImageDraw.ImageDraw, forest: Thing) -> None:
    floor = canvas.tint(rng, (44, 84, 44), 8)
    pen.polygon(canvas.blob(rng, forest.x, forest.y, forest.radius * 0.92, 0.14), fill=floor)
    reach = forest.radius * np.sqrt(rng.uniform(0, 1, 55)) * 0.92
    angle = rng.uniform(0, 2 * np.pi, 55)
    for r, a in zip(reach.tolist(), angle.tolist(), strict=True):
        x, y = forest.x + r * np.cos(a), forest.y + r * np.sin(a)
        size = rng.uniform(3, 5.5)
        canvas.disc(pen, x, y, size, canvas.tint(rng, (42, 88, 46), 14))
        canvas.disc(pen, x - 1, y - 1, size * 0.5, canvas.tint(rng, (70, 120, 66), 14))


def _fire(rng: np.random.Generator, pen: ImageDraw.ImageDraw, fire: Thing) -> None:
    canvas.disc(pen, fire.x, fire.y, fire.radius, canvas.tint(rng, (62, 48, 40), 8))  # burnt ground
    for _ in range(16):
        r, a = fire.radius * 0.75 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        x, y, size = fire.x + r * np.cos(a), fire.y + r * np.sin(a), rng.uniform(2, 5)
        pen.polygon([(x - size, y + size), (x + size, y + size), (x, y - 1.6 * size)], fill=(246, 128, 24))
        canvas.disc(pen, x, y + size * 0.4, size * 0.45, (255, 222, 92))


def _house(rng: np.random.Generator, pen: ImageDraw.ImageDraw, house: Thing) -> None:
    """Draws two roof halves, one in the shade, over a cast shadow."""
    roof = canvas.tint(rng, ROOFS[house.colour], 12)
    turn, long, wide = rng.uniform(0, np.pi), rng.uniform(18, 22), rng.uniform(12, 15)
    pen.polygon(canvas.turned_box(house.x + 3, house.y + 3, long, wide, turn), fill=(78, 80, 62))
    pen.polygon(canvas.turned_box(house.x, house.y, long, wide, turn), fill=roof)
    aside = wide / 4
    x, y = house.x - aside * np.sin(turn), house.y + aside * np.cos(turn)
    pen.polygon(canvas.turned_box(x, y, long, wide / 2, turn), fill=canvas.shade(roof, 0.75))


_PAINTERS = {"lake": _lake, "forest": _forest, "fire": _fire, "house": _house}


def ask(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Returns one question of each sort that this picture decides."""
    houses, red = scene.having("house"), scene.having("house", "red")
    questions = [
        SceneQuestion("houses", put(rng, phrases.COUNT, things="houses"), str(len(houses))),
        SceneQuestion("red roofs", put(rng, phrases.COUNT_RED_ROOFS), str(len(red))),
        SceneQuestion("presence", put(rng, phrases.PRESENCE, thing="a house"), yes(bool(houses))),
        SceneQuestion("caption", put(rng, phrases.CAPTION), caption(scene)),
        SceneQuestion(
            "comparison",
            put(rng, phrases.MORE, things="red roofs", others="grey roofs"),
            yes(len(red) > len(houses) - len(red)),
        ),
    ]
    if len(houses) == 1:
        questions.append(
            SceneQuestion("colour", put(rng, phrases.COLOUR, the="the roof of the house"), houses[0].colour)
        )
    for name in LANDMARKS:
        landmarks = scene.having(name)
        questions.append(SceneQuestion("presence", put(rng, phrases.PRESENCE, thing=f"a {name}"), yes(bool(landmarks))))
        corner = landmarks[0].corner if landmarks else "nowhere"
        if corner:
            questions.append(SceneQuestion("position", put(rng, phrases.WHERE, the=f"the {name}"), corner))
    return questions + beside(rng, scene)


def beside(rng: np.random.Generator, scene: Scene) -> list[SceneQuestion]:
    """Returns which of two landmarks is further to one side, where they are well apart."""
    landmarks = [thing for thing in scene.things if thing.name in LANDMARKS]
    if len(landmarks) < 2:
        return []
    first, second = (landmarks[i] for i in rng.permutation(len(landmarks))[:2])
    if abs(first.x - second.x) < 24:
        return []
    side = "left" if rng.random() < 0.5 else "right"
    holds = (first.x < second.x) == (side == "left")
    words = {"the": f"the {first.name}", "other": f"the {second.name}", "side": side}
    return [SceneQuestion("comparison", put(rng, phrases.BESIDE, **words), yes(holds))]


def caption(scene: Scene) -> str:
    """Returns what stands in the picture, landmarks first, as one phrase."""
    parts = [f"a {name}" for name in LANDMARKS if scene.having(name)]
    if houses := len(scene.having("house")):
        parts.append(counted(houses, "house"))
    return listed(parts, "open land")
