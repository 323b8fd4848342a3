"""One request to one cloud node: its payload, and what counts as an answer to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_node.cloud.payload import Payload
from splitvlm.domain import GREEDY, Sampling
from splitvlm.grammar.grammar import Matcher
from splitvlm.grammar.grammars import Grammars


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Holds the model's token ids: those from 0 to below `size`; an answer ends with one of `end_ids`, or at its longest."""

    size: int
    end_ids: frozenset[int]
    grammars: Grammars | None = None  # of constraints; None where no answer has any


@dataclass(frozen=True, slots=True)
class AnswerSpec:
    """Says which tokens make an answer: at most `max_new_tokens` of the vocabulary, the first of which may be there already."""

    max_new_tokens: int
    vocabulary: Vocabulary
    resume_token_ids: tuple[int, ...] = ()
    sampling: Sampling = GREEDY

    def matcher(self) -> Matcher | None:
        """Returns what follows the answer under its constraint, after the tokens that are there; None without a constraint.

        The constraint was compiled when the question was checked.
        """
        if self.sampling.constraint is None:
            return None
        assert self.vocabulary.grammars is not None, "a device's vocabulary has them"
        matcher = self.vocabulary.grammars.matcher(self.sampling.constraint)
        for token_id in self.resume_token_ids:
            matcher.take(token_id)
        return matcher

    def is_complete(self, token_ids: Sequence[int]) -> bool:
        """Returns whether an answer of these tokens is complete. `token_ids` are all of it, resumed ones included."""
        return len(token_ids) >= self.max_new_tokens or (bool(token_ids) and token_ids[-1] in self.vocabulary.end_ids)


@dataclass(frozen=True, slots=True)
class CloudRequest:
    """Holds a payload for one cloud node, which may be silent for `silence_timeout_s`; None where nobody could take over."""

    payload: Payload
    answer: AnswerSpec
    prefix_name: bytes = b""  # by which the node may keep the prompt's prefix; empty: it may not
    silence_timeout_s: float | None = None
