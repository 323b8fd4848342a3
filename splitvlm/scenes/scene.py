"""A scene is what a drawn picture holds: things at pixel positions, and facts about the whole.

Positions are pixels of a 256 x 256 picture, x to the right and y downwards. Nothing here draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

EDGE = 256  # pixels; the picture is square
MIDDLE = EDGE / 2
MIDDLE_MARGIN = 14  # pixels from the middle line within which no question asks for the side


@dataclass(frozen=True)
class Thing:
    """Holds one object of a picture: its class, what is said of it, and the circle that it fills."""

    name: str  # such as "cell"
    colour: str  # such as "red", or "" where colour says nothing
    x: float
    y: float
    radius: float
    mark: str = ""  # such as "infected" or "on the road"

    @property
    def label(self) -> str:
        """Returns the class of this thing for the dense training loss."""
        return " ".join(word for word in (self.mark, self.colour, self.name) if word)

    @property
    def corner(self) -> str | None:
        """Returns `top left` and so on, or None where the thing is too near a middle line to say."""
        if abs(self.x - MIDDLE) < MIDDLE_MARGIN or abs(self.y - MIDDLE) < MIDDLE_MARGIN:
            return None
        return f"{'top' if self.y < MIDDLE else 'bottom'} {self.side}"

    @property
    def side(self) -> str:
        """Returns the half of the picture in which the middle of the thing lies: `left` or `right`."""
        return "left" if self.x < MIDDLE else "right"


@dataclass(frozen=True)
class Scene:
    """Holds a picture (RGB, 256 x 256) and the truth about it."""

    image: Image = field(repr=False, compare=False)
    domain: str
    seed: int
    things: tuple[Thing, ...]
    facts: dict[str, Any]

    def having(self, name: str, colour: str | None = None, mark: str | None = None) -> list[Thing]:
        """Returns the things of that class, colour and mark (None matches all)."""
        return select(self.things, name, colour, mark)


@dataclass(frozen=True)
class SceneQuestion:
    """Holds a question about a scene, its kind and its answer."""

    kind: str
    text: str
    answer: str


def select(things: Sequence[Thing], name: str, colour: str | None = None, mark: str | None = None) -> list[Thing]:
    """Returns the things of that name, colour and mark; None matches all."""
    return [
        t
        for t in things
        if t.name == name and (colour is None or t.colour == colour) and (mark is None or t.mark == mark)
    ]
