"""Log-probabilities of shown tokens, as replies hold them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_node.answering.events import LikelyToken, ShownToken


def logprobs_of(tokens: Sequence[ShownToken]) -> dict[str, Any]:
    """Returns the object `logprobs` of a choice."""
    return {
        "content": [_entry(token.chosen) | {"top_logprobs": [_entry(other) for other in token.top]} for token in tokens]
    }


def _entry(token: LikelyToken) -> dict[str, Any]:
    """Returns a token; one that is a part of a character is readable by its bytes alone."""
    return {"token": token.text.decode("utf-8", "replace"), "logprob": token.logprob, "bytes": list(token.text)}
