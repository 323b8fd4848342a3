"""Answers that are one of several texts, and the probability of each text.

A choice is the tokens that the tokenizer makes of it, and then an end token. Where words have tokens with a space before them,
it may come with that space, as after a chat template's last word; both count as the choice. At each place where several tokens
may follow, the model's scores, softmaxed over these tokens alone, are their probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitvlm.domain import ChosenToken
from splitvlm.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class ChoiceProbability:
    """Holds how likely the answer was to be a choice.

    `probability` is None where only that of several choices together is known: they begin alike, and the answer left all of
    them at once, so that the model never compared them.
    """

    text: str
    probability: float | None


class ChoiceGrammar:
    """Implements `Grammar` for a list of choices: a trie of their tokens."""

    def __init__(
        self, texts: Sequence[str], encode: Callable[[str], Sequence[int]], end_ids: Iterable[int], size: int
    ) -> None:
        """Takes what encodes text without special tokens, the tokens that end answers, and the vocabulary's size."""
        self.texts = tuple(texts)
        self.size = size
        self.end_ids = tuple(sorted(end_ids))
        self._ends: dict[tuple[int, ...], set[str]] = {}  # choices that are complete after these tokens
        self._under: dict[tuple[int, ...], set[str]] = {}  # choices that begin with these tokens
        self._next: dict[tuple[int, ...], set[int]] = {}
        space = tuple(encode(" "))
        for text in self.texts:
            self._add(tuple(encode(text)), text)
            spaced = tuple(encode(f" {text}"))
            if spaced[: len(space)] != space:  # else all choices would begin alike
                self._add(spaced, text)

    def matcher(self) -> ChoiceMatcher:
        return ChoiceMatcher(self)

    def next_ids(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the tokens that may follow: none after an end token."""
        return tuple(sorted(self._next.get(token_ids, ())))

    def probabilities(self, answer: Sequence[int]) -> tuple[ChoiceProbability, ...]:
        """Returns the probability of each choice, by the log-probabilities of the answer's chosen tokens."""
        sums = dict.fromkeys(self.texts, 0.0)
        untold: set[str] = set()
        for choices, probability in self._shares(answer):
            if len(choices) > 1:
                untold |= choices
            for text in choices:
                sums[text] += probability
        return tuple(ChoiceProbability(text, None if text in untold else sums[text]) for text in self.texts)

    def _add(self, token_ids: tuple[int, ...], text: str) -> None:
        for length, token_id in enumerate(token_ids):
            self._under.setdefault(token_ids[:length], set()).add(text)
            self._next.setdefault(token_ids[:length], set()).add(token_id)
        self._under.setdefault(token_ids, set()).add(text)
        self._ends.setdefault(token_ids, set()).add(text)
        self._next.setdefault(token_ids, set()).update(self.end_ids)

    def _shares(self, answer: Sequence[int]) -> Iterator[tuple[set[str], float]]:
        """Yields sets of choices that the model did not tell apart, each with their probability: together 1."""
        share = 1.0
        begun: tuple[int, ...] = ()
        for token_id in answer:
            for other_id, probability in self._odds(begun, token_id):
                if other_id != token_id:
                    yield self._after(begun, other_id), share * probability
                else:
                    own_share = share * probability
            share = own_share
            if token_id in self.end_ids:
                yield self._ends[begun], share
                return
            begun = (*begun, token_id)
        yield self._under[begun], share

    def _odds(self, begun: tuple[int, ...], token_id: int) -> Iterator[tuple[int, float]]:
        """Yields each token that may follow, with its probability among them."""
        next_ids = self.next_ids(begun)
        if len(next_ids) == 1 or not isinstance(token_id, ChosenToken):
            yield token_id, 1.0
            return
        told = dict(token_id.top)
        most = max(told[next_id] for next_id in next_ids)
        weights = [math.exp(told[next_id] - most) for next_id in next_ids]
        for next_id, weight in zip(next_ids, weights, strict=True):
            yield next_id, weight / sum(weights)

    def _after(self, begun: tuple[int, ...], token_id: int) -> set[str]:
        return self._ends[begun] if token_id in self.end_ids else self._under[*begun, token_id]


class ChoiceMatcher:
    """Implements `Matcher` for a list of choices."""

    def __init__(self, grammar: ChoiceGrammar) -> None:
        self._grammar = grammar
        self._taken: tuple[int, ...] = ()

    def allowed(self) -> NDArray[np.bool_]:
        allowed_V = np.zeros(self._grammar.size, dtype=np.bool_)
        allowed_V[list(self._grammar.next_ids(self._taken))] = True
        return allowed_V

    def take(self, token_id: int) -> None:
        if token_id not in self._grammar.next_ids(self._taken):
            raise ProtocolError("The answer went on with a token of none of its choices.")
        self._taken = (*self._taken, int(token_id))

    @property
    def told(self) -> tuple[int, ...]:
        next_ids = self._grammar.next_ids(self._taken)
        return next_ids if len(next_ids) > 1 else ()
