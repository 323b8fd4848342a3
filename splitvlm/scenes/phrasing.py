"""Putting questions and answers into words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def put(rng: np.random.Generator, phrasings: Sequence[str], **words: str) -> str:
    """Returns one of the phrasings, with its blanks filled in."""
    return phrasings[int(rng.integers(len(phrasings)))].format(**words)


def yes(fact: bool) -> str:
    """Returns the answer to a question about a fact: `yes` or `no`."""
    return "yes" if fact else "no"


def counted(number: int, singular: str) -> str:
    """Returns number and noun: `1 cell`, `2 cells`."""
    return f"{number} {singular}" + ("" if number == 1 else "s")


def listed(parts: Sequence[str], nothing: str) -> str:
    """Returns the parts with commas between them, or `nothing`."""
    return ", ".join(parts) if parts else nothing
