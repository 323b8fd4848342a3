"""Defines what a kind of variant gets to be made with, and what it says of itself. The kinds are listed in make.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from splitvlm.bundle import Bundle
from splitvlm.domain import Plan
from splitvlm.variants.folder import Made

Option = int | float | str


@dataclass(frozen=True, slots=True)
class Making:
    """Holds what is asked for. A kind writes its files into `folder`; the manifest is written after it."""

    model: str
    bundle: Bundle  # the parent's, with its spec
    folder: Path
    name: str  # by which plans will call it
    seed: int
    data: Path | None  # JSON lines of pictures and questions (splitvlm.evaluation.answers); None: drawn scenes
    samples: int  # how many of them are used
    options: Mapping[str, Option]

    def plan(self, text: str) -> Plan:
        """Returns a plan of the variant, from a text such as tokens/klt3."""
        return Plan.parse(f"{text}@{self.name}")


@dataclass(frozen=True, slots=True)
class Kind:
    """Names a way to make variants. Every option has a default, whose type is the option's."""

    make: Callable[[Making], Made]
    summary: str
    options: Mapping[str, Option] = field(default_factory=dict)
