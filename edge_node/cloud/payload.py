"""A payload is what crosses for one question under one plan."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edge_node.cloud.segments import Segments
from splitvlm.domain import Plan

NextStep = Callable[[int, int], Awaitable[bytes]]
"""Gives the coded boundary of a token of the answer by its index and its id (cuts `lm:k`)."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Holds the segments of one plan, and what the cloud node needs beside them."""

    plan: Plan
    segments: Segments
    question: str = ""  # cut `image` only
    step: NextStep | None = None
    prefix_cached: bool = False  # the cloud node has the picture: the segments hold the prompt only
