"""What crosses for one request, and what counts as an answer to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from edge_node.cloud.segments import Segments
from splitvlm.domain import Plan

NextStep = Callable[[int, int], Awaitable[bytes]]
"""Gives the coded boundary of the token at a place of the answer (cuts `lm:k`)."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The model's token ids: those from 0 to below `size`; an answer ends with one of `end_ids`, or at its longest."""

    size: int
    end_ids: frozenset[int]

    def ends(self, token_ids: Sequence[int], max_new_tokens: int) -> bool:
        """Whether an answer of these tokens is complete."""
        return len(token_ids) >= max_new_tokens or (bool(token_ids) and token_ids[-1] in self.end_ids)


@dataclass(frozen=True, slots=True)
class Payload:
    """One request's parts, and what the cloud node is told beside them."""

    plan: Plan
    segments: Segments
    max_new_tokens: int
    vocabulary: Vocabulary
    question: str = ""  # cut `image` only
    step: NextStep | None = None
    picture: bytes = b""  # the picture's name, by which the cloud may remember it
    prefix_cached: bool = False  # it does: `parts` hold the prompt only
    resume_token_ids: Sequence[int] = ()  # tokens of the answer that are there already
    silence_timeout_s: float | None = None  # that a silent cloud node gets, where another could take over,
    upload_s: float = 0.0  # and as long as it is predicted to take, its first part's upload besides
