"""The seam of structured answers: a grammar is compiled once, and each answer under it follows a matcher of its own.

What a matcher allows depends on the tokens that it took and on nothing else: a node that takes an answer over gives it the
tokens that are there, and goes on as the first one would have.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Matcher(Protocol):
    """Follows one answer, token by token. Used from one thread at a time."""

    def allowed(self) -> NDArray[np.bool_]:
        """Returns [V]: the tokens with which the answer may go on. End tokens are among them where it may end."""

    def take(self, token_id: int) -> None:
        """Takes the answer's next token. Raises ProtocolError for one that is not allowed."""

    @property
    def told(self) -> tuple[int, ...]:
        """Returns the tokens whose log-probabilities the answer's reader needs at this place, beside those it asked for."""


class Grammar(Protocol):
    """Is a compiled constraint."""

    def matcher(self) -> Matcher:
        """Returns a matcher at the beginning of an answer."""
