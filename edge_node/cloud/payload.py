"""A payload is what crosses for one question under one plan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edge_node.cloud.known_prefixes import KnownPrefix
from edge_node.cloud.segments import Segments
from splitvlm.domain import Conversation, Plan

NextStep = Callable[[int, int], Awaitable[bytes]]
"""Gives the coded boundary of a token of the answer by its index and its id (cuts `lm:k`)."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Holds the segments of one plan, and what the cloud node needs beside them."""

    plan: Plan
    segments: Segments
    conversation: Conversation | None = None  # cut `image` only
    step: NextStep | None = None
    cached: KnownPrefix | None = None  # that the cloud node goes on from: the segments hold the rest
    prefix_tokens: int = 0  # so many first ids of the prompt are left out
    num_images: int = 0  # of the whole prompt
    prompt_ids: tuple[int, ...] = ()  # of the whole prompt, where the device knows them

    @property
    def prefix_cached(self) -> bool:
        """Tells whether the payload goes on from a prefix that the cloud node has."""
        return self.cached is not None
