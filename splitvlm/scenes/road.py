"""The view of a driver: a traffic light, pedestrians on the road or beside it, cars, an obstacle, day or night."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from splitvlm.scenes import canvas, phrases
from splitvlm.scenes.phrasing import counted, listed, put, yes
from splitvlm.scenes.scene import EDGE, Scene, SceneQuestion, Thing, select

NAME = "road"
LAMPS: dict[str, tuple[int, int, int]] = {"red": (255, 48, 40), "yellow": (255, 214, 48), "green": (48, 236, 96)}
CARS: dict[str, canvas.Colour] = {"red": (188, 44, 44), "blue": (48, 78, 176), "white": (226, 228, 230)}
OBSTACLES = ("cone", "box", "rock")
MOST_CARS, MOST_PEDESTRIANS = 4, 4
LABELS = (
    *(f"{lamp} light" for lamp in LAMPS),
    *(f"{colour} car" for colour in CARS),
    *OBSTACLES,
    "pedestrian",
    "crossing pedestrian",
)
HORIZON = 100  # y of the horizon, pixels
Circles = list[tuple[float, float, float]]


def draw(rng: np.random.Generator, seed: int) -> Scene:
    """Draws the picture of that seed; `rng` is seeded by domain and seed."""
    night = bool(rng.random() < 0.35)
    picture = _view(rng, night)
    pen = ImageDraw.Draw(picture)
    things = _layout(rng)
    for thing in sorted(things, key=lambda t: t.y):
        _PAINTERS[thing.name](rng, pen, thing)
    image = canvas.photograph(rng, picture, light=0.6 if night else 1.0)
    return Scene(image, NAME, seed, tuple(things), {"night": night, "safe": _is_safe(things)})


def _is_safe(things: list[Thing]) -> bool:
    stop = select(things, "light", "red") or select(things, "pedestrian", mark="crossing")
    return not stop and not any(thing.name in OBSTACLES for thing in things)


def _road_edges(y: float) -> tuple[float, float]:
    """Returns the x of both kerbs at height y."""
    down = (y - HORIZON) / (EDGE - HORIZON)
    return 88 - 76 * down, 168 + 76 * down


def _layout(rng: np.random.Generator) -> list[Thing]:
    things = _light(rng)
    occupied: Circles = []
    if rng.random() < 0.4:
        _on_road(rng, occupied, things, Thing(OBSTACLES[rng.integers(3)], "", 0, 0, 13))
    for _ in range(int(rng.integers(0, MOST_CARS + 1))):
        _on_road(rng, occupied, things, Thing("car", list(CARS)[rng.integers(3)], 0, 0, 16))
    crossing = rng.random() < 0.5
    for _ in range(int(rng.integers(0, MOST_PEDESTRIANS + 1))):
        if crossing and rng.random() < 0.6:
            _on_road(rng, occupied, things, Thing("pedestrian", "", 0, 0, 15, "crossing"))
        else:
            left = rng.random() < 0.5
            bounds = (2.0, 122.0, 36.0, 196.0) if left else (220.0, 122.0, 254.0, 196.0)
            spot = canvas.place(rng, occupied, 15, gap=6, bounds=bounds)
            if spot is not None:
                things.append(Thing("pedestrian", "", *spot, 15))
    return things


def _light(rng: np.random.Generator) -> list[Thing]:
    if rng.random() > 0.75:
        return []
    x = rng.uniform(22, 66) if rng.random() < 0.5 else rng.uniform(190, 234)
    return [Thing("light", list(LAMPS)[rng.integers(3)], x, rng.uniform(36, 66), 20)]


def _on_road(rng: np.random.Generator, occupied: Circles, things: list[Thing], thing: Thing) -> None:
    """Adds the thing at a free place between the kerbs, if there is one."""
    for _ in range(60):
        y = rng.uniform(128, EDGE - 16)
        left, right = _road_edges(y)
        x = rng.uniform(left + 18, right - 18)
        if canvas.is_free(occupied, x, y, thing.radius, gap=5):
            occupied.append((x, y, thing.radius))
            things.append(Thing(thing.name, thing.colour, x, y, thing.radius, thing.mark))
            return


def _view(rng: np.random.Generator, night: bool) -> Image.Image:
    """Draws sky, land and road with its middle line; the sky is dark by night."""
    sky = canvas.tint(rng, (34, 38, 66) if night else (166, 196, 226), 12)
    low, high = ((112, 124, 92), (136, 146, 112)) if rng.random() < 0.5 else ((142, 138, 130), (158, 150, 140))
    picture = canvas.ground(rng, low, high, int(rng.integers(4, 9)), rng.uniform(3, 6))
    heavens = canvas.ground(rng, sky, canvas.shade(sky, 1.12), 3, 2)
    picture.paste(heavens.crop((0, 0, EDGE, HORIZON)), (0, 0))
    pen = ImageDraw.Draw(picture)
    for x in range(-10, EDGE, 24):  # hills or roofs along the horizon
        height = rng.uniform(4, 16)
        pen.rectangle((x, HORIZON - height, x + 24, HORIZON), fill=canvas.tint(rng, (92, 104, 92), 16))
    asphalt = canvas.ground(rng, (92, 92, 96), (110, 110, 112), 5, rng.uniform(3, 6))
    shape = Image.new("L", (EDGE, EDGE), 0)
    (top_left, top_right), (left, right) = _road_edges(HORIZON), _road_edges(EDGE)
    corners = [(top_left, HORIZON), (top_right, HORIZON), (right, EDGE), (left, EDGE)]
    ImageDraw.Draw(shape).polygon(corners, fill=255)
    picture.paste(asphalt, (0, 0), shape)
    for y in range(HORIZON + 6, EDGE, 34):
        pen.line((128, y, 128, y + 14), fill=(206, 206, 196), width=3)
    return picture


def _paint_light(rng: np.random.Generator, pen: ImageDraw.ImageDraw, light: Thing) -> None:
    x, y = light.x, light.y
    pen.rectangle((x - 2, y + 20, x + 2, 122), fill=(74, 76, 80))
    pen.rectangle((x - 9, y - 23, x + 9, y + 23), fill=(30, 32, 34))
    for index, (colour, lamp) in enumerate(LAMPS.items()):
        fill = lamp if colour == light.colour else canvas.shade(lamp, 0.22)
        canvas.disc(pen, x, y + 14 * (index - 1), 6, fill)


def _car(rng: np.random.Generator, pen: ImageDraw.ImageDraw, car: Thing) -> None:
    x, y = car.x, car.y
    body = canvas.tint(rng, CARS[car.colour], 12)
    for wheel in (-11, 11):
        pen.rectangle((x + wheel - 3, y + 6, x + wheel + 3, y + 14), fill=(22, 22, 24))
    pen.rounded_rectangle((x - 15, y - 4, x + 15, y + 10), 3, fill=body)
    pen.polygon([(x - 11, y - 4), (x - 8, y - 13), (x + 8, y - 13), (x + 11, y - 4)], fill=body)
    pen.polygon([(x - 8, y - 5), (x - 6, y - 11), (x + 6, y - 11), (x + 8, y - 5)], fill=(52, 62, 74))
    for lamp in (-12, 12):
        canvas.disc(pen, x + lamp, y + 2, 2, (250, 92, 60))


def _pedestrian(rng: np.random.Generator, pen: ImageDraw.ImageDraw, person: Thing) -> None:
    x, y = person.x, person.y
    shirts: tuple[canvas.Colour, ...] = ((210, 160, 40), (146, 66, 150), (60, 150, 140), (224, 122, 64))
    shirt = canvas.tint(rng, shirts[rng.integers(4)], 14)
    trousers = canvas.tint(rng, (44, 46, 66), 10)
    stride = rng.uniform(1, 4)
    pen.line((x, y + 3, x - stride, y + 15), fill=trousers, width=4)
    pen.line((x, y + 3, x + stride, y + 15), fill=trousers, width=4)
    pen.rounded_rectangle((x - 5, y - 8, x + 5, y + 5), 2, fill=shirt)
    canvas.disc(pen, x, y - 12, 4.2, canvas.tint(rng, (214, 168, 136), 20))


def _cone(rng: np.random.Generator, pen: ImageDraw.ImageDraw, cone: Thing) -> None:
    x, y = cone.x, cone.y
    orange = canvas.tint(rng, (244, 112, 28), 10)
    pen.rectangle((x - 12, y + 8, x + 12, y + 12), fill=canvas.shade(orange, 0.85))
    pen.polygon([(x - 8, y + 9), (x + 8, y + 9), (x + 1.5, y - 14), (x - 1.5, y - 14)], fill=orange)
    pen.polygon([(x - 6, y + 2), (x + 6, y + 2), (x + 4, y - 4), (x - 4, y - 4)], fill=(240, 240, 236))


def _box(rng: np.random.Generator, pen: ImageDraw.ImageDraw, box: Thing) -> None:
    x, y = box.x, box.y
    board = canvas.tint(rng, (178, 132, 78), 12)
    pen.rectangle((x - 11, y - 9, x + 11, y + 11), fill=board, outline=canvas.shade(board, 0.6), width=2)
    pen.line((x, y - 9, x, y + 11), fill=canvas.shade(board, 0.7), width=2)


def _rock(rng: np.random.Generator, pen: ImageDraw.ImageDraw, rock: Thing) -> None:
    stone = canvas.tint(rng, (158, 152, 146), 10)
    pen.polygon(canvas.blob(rng, rock.x, rock.y + 2, 12, 0.2), fill=canvas.shade(stone, 0.6))
    pen.polygon(canvas.blob(rng, rock.x - 2, rock.y - 2, 9, 0.2), fill=stone)


_PAINTERS = {
    "light": _paint_light, "car": _car, "pedestrian": _pedestrian, "cone": _cone, "box": _box, "rock": _rock,
}  # fmt: skip


def ask(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Returns one question of each sort that this picture decides."""
    cars, people = scene.having("car"), scene.having("pedestrian")
    obstacle = next((name for name in OBSTACLES if scene.having(name)), None)
    lights = scene.having("light")
    questions = [
        SceneQuestion("light", put(rng, phrases.LIGHT), lights[0].colour if lights else "none"),
        SceneQuestion("pedestrians", put(rng, phrases.COUNT, things="pedestrians"), str(len(people))),
        SceneQuestion("cars", put(rng, phrases.COUNT, things="cars"), str(len(cars))),
        SceneQuestion("obstacle", put(rng, phrases.OBSTACLE), f"a {obstacle}" if obstacle else "nothing"),
        SceneQuestion("driving", put(rng, phrases.SAFE), yes(scene.facts["safe"])),
        SceneQuestion("daylight", put(rng, phrases.DAYLIGHT), "night" if scene.facts["night"] else "day"),
        SceneQuestion("presence", put(rng, phrases.PRESENCE, thing="a traffic light"), yes(bool(lights))),
        SceneQuestion("presence", put(rng, phrases.PRESENCE, thing="a pedestrian"), yes(bool(people))),
        SceneQuestion("presence", put(rng, phrases.PRESENCE, thing="a car"), yes(bool(cars))),
        SceneQuestion("presence", put(rng, phrases.PRESENCE, thing="an obstacle"), yes(obstacle is not None)),
        SceneQuestion("caption", put(rng, phrases.CAPTION), caption(scene)),
        SceneQuestion(
            "comparison",
            put(rng, phrases.MORE, things="cars", others="pedestrians"),
            yes(len(cars) > len(people)),
        ),
        SceneQuestion(
            "position", put(rng, phrases.SIDE, the="the traffic light"), lights[0].side if lights else "nowhere"
        ),
    ]
    for name in OBSTACLES:
        questions.append(
            SceneQuestion("presence", put(rng, phrases.PRESENCE, thing=f"a {name}"), yes(name == obstacle))
        )
    if len(cars) == 1:
        questions.append(SceneQuestion("colour", put(rng, phrases.COLOUR, the="the car"), cars[0].colour))
    return questions


def caption(scene: Scene) -> str:
    """Returns what stands in the picture, the traffic light first, as one phrase."""
    lights, cars, people = scene.having("light"), scene.having("car"), scene.having("pedestrian")
    parts = [f"a {lights[0].colour} light"] if lights else []
    parts += [counted(len(people), "pedestrian")] if people else []
    parts += [counted(len(cars), "car")] if cars else []
    parts += [f"a {name}" for name in OBSTACLES if scene.having(name)]
    return listed(parts, "an empty road")
