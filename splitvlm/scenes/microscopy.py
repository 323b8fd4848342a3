"""Blood cells under a microscope: red, blue or green stain, infected or not.

An infected cell holds two to four dark parasites; a healthy one is plain, with a paler middle. Cells never touch.
"""

from __future__ import annotations

import numpy as np
from PIL import ImageDraw

from splitvlm.scenes import canvas, phrases
from splitvlm.scenes.phrasing import counted, put, yes
from splitvlm.scenes.scene import EDGE, Scene, SceneQuestion, Thing, select

NAME = "microscopy"
MOST_CELLS = 10
MOST_RADIUS = 17.0
CELL_SPACING = 46.0  # pixels from middle to middle: two never share a visual token (32 px, 45 across)
COLOURS: dict[str, canvas.Colour] = {"red": (205, 72, 78), "blue": (82, 102, 196), "green": (88, 160, 92)}
LABELS = tuple(f"{mark}{colour} cell" for mark in ("", "infected ") for colour in COLOURS)
PLATES = (((236, 214, 214), (222, 196, 204)), ((232, 228, 208), (214, 208, 188)), ((214, 222, 232), (198, 206, 222)))


def draw(rng: np.random.Generator, seed: int) -> Scene:
    """Draws the picture of that seed; `rng` is seeded by domain and seed."""
    low, high = PLATES[rng.integers(len(PLATES))]
    picture = canvas.ground(rng, low, high, int(rng.integers(3, 8)), rng.uniform(2, 5))
    pen = ImageDraw.Draw(picture)
    _dust(rng, pen)
    things = _cells(rng)
    for cell in things:
        _cell(rng, pen, cell)
    image = canvas.photograph(rng, picture)
    facts = {"cells": len(things), "infected": len(select(things, "cell", mark="infected"))}
    return Scene(image, NAME, seed, tuple(things), facts)


def _cells(rng: np.random.Generator) -> list[Thing]:
    """Lays out up to ten cells in the open; colours lean to one stain or another, infection from none to all."""
    lean = rng.dirichlet((0.8, 0.8, 0.8))
    count = int(rng.integers(0, MOST_CELLS + 1))
    infected = int(rng.integers(0, count + 1))
    occupied: list[tuple[float, float, float]] = []
    things = []
    for index in range(count):
        radius = rng.uniform(12, MOST_RADIUS)
        spot = canvas.place(rng, occupied, MOST_RADIUS, CELL_SPACING - 2 * MOST_RADIUS, (2, 2, EDGE - 2, EDGE - 2))
        if spot is not None:
            colour = list(COLOURS)[rng.choice(3, p=lean)]
            things.append(Thing("cell", colour, *spot, radius, "infected" if index < infected else ""))
    return things


def _cell(rng: np.random.Generator, pen: ImageDraw.ImageDraw, cell: Thing) -> None:
    body = canvas.tint(rng, COLOURS[cell.colour], 14)
    x, y, radius = cell.x, cell.y, cell.radius
    pen.polygon(canvas.blob(rng, x, y, radius, 0.06), fill=body, outline=canvas.shade(body, 0.72), width=2)
    if cell.mark != "infected":
        canvas.disc(pen, x + rng.uniform(-1, 1), y + rng.uniform(-1, 1), 0.42 * radius, canvas.shade(body, 1.2))
        return
    turn = rng.uniform(0, 2 * np.pi)
    spots = int(rng.integers(2, 5))
    for spot in range(spots):
        angle = turn + 2 * np.pi * spot / spots
        reach = radius * rng.uniform(0.36, 0.5)
        dark = canvas.tint(rng, (42, 22, 52), 10)
        canvas.disc(pen, x + reach * np.cos(angle), y + reach * np.sin(angle), rng.uniform(2.4, 3.4), dark)


def _dust(rng: np.random.Generator, pen: ImageDraw.ImageDraw) -> None:
    """Specks and threads that are no cells."""
    for _ in range(int(rng.integers(4, 14))):
        x, y = rng.uniform(0, EDGE, 2)
        grey = canvas.tint(rng, (168, 160, 164), 20)
        if rng.random() < 0.6:
            canvas.disc(pen, x, y, rng.uniform(0.6, 1.8), grey)
        else:
            pen.line((x, y, x + rng.uniform(-16, 16), y + rng.uniform(-16, 16)), fill=grey, width=1)


def ask(scene: Scene, rng: np.random.Generator) -> list[SceneQuestion]:
    """Returns one question of each sort that this picture decides."""
    cells = scene.having("cell")
    infected = scene.having("cell", mark="infected")
    questions = [
        SceneQuestion("cells", put(rng, phrases.COUNT, things="cells"), str(len(cells))),
        SceneQuestion("infected cells", put(rng, phrases.COUNT_INFECTED), str(len(infected))),
        SceneQuestion("presence", put(rng, phrases.ANY_INFECTED), yes(bool(infected))),
        SceneQuestion("caption", put(rng, phrases.CAPTION), caption(len(cells), len(infected))),
    ]
    for colour in COLOURS:
        alike = len(scene.having("cell", colour))
        kind = "red cells" if colour == "red" else "other cells"
        questions.append(SceneQuestion(kind, put(rng, phrases.COUNT, things=f"{colour} cells"), str(alike)))
        questions.append(
            SceneQuestion("presence", put(rng, phrases.PRESENCE, thing=f"a {colour} cell"), yes(alike > 0))
        )
    first, second = rng.permutation(list(COLOURS))[:2].tolist()
    more = len(scene.having("cell", first)) > len(scene.having("cell", second))
    questions.append(
        SceneQuestion(
            "comparison", put(rng, phrases.MORE, things=f"{first} cells", others=f"{second} cells"), yes(more)
        )
    )
    return questions + _about_one(rng, infected)


def _about_one(rng: np.random.Generator, infected: list[Thing]) -> list[SceneQuestion]:
    """Asks where the one infected cell is, and what colour it has."""
    if not infected:
        return [SceneQuestion("position", put(rng, phrases.WHERE, the="the infected cell"), "nowhere")]
    if len(infected) > 1:
        return []
    asked = [SceneQuestion("colour", put(rng, phrases.COLOUR, the="the infected cell"), infected[0].colour)]
    if corner := infected[0].corner:
        asked.append(SceneQuestion("position", put(rng, phrases.WHERE, the="the infected cell"), corner))
    return asked


def caption(cells: int, infected: int) -> str:
    """Returns the number of cells, and of infected ones, as one phrase."""
    if cells == 0:
        return "no cells"
    return f"{counted(cells, 'cell')}, {infected if infected else 'none'} infected"
