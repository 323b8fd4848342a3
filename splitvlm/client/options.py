"""The wishes that come with a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class Options(TypedDict, total=False):
    """Names what may be said beside a conversation; what is left out is as the edge node's settings say, and greedy."""

    plan: str  # e.g. `tokens/int4`; empty: the node chooses
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int | None
    stop: Sequence[str]
