"""Log-probabilities of an answer's tokens, and the probabilities of its choices, as replies hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_node.answering.report import RequestReport
from splitvlm.domain import Choices, ChosenToken

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # where a token is a part of a character


@dataclass(frozen=True, slots=True)
class TokenTexts:
    """Tells what a model's tokens say, and how likely choices were."""

    text_of: Callable[[int], str]  # empty for special tokens
    probabilities: Callable[[RequestReport], Sequence[tuple[str, float | None]]]


def logprobs_of(report: RequestReport, texts: TokenTexts) -> dict[str, Any] | None:
    """Returns the object `logprobs` of a choice; None where nobody asked for it. The end token is left out."""
    if report.sampling.top_logprobs is None:
        return None
    chosen = [token for token in report.token_ids if isinstance(token, ChosenToken)]
    shown = [(token, text) for token in chosen if (text := texts.text_of(int(token)))]
    return {"content": [_content(token, text, report.sampling.top_logprobs, texts) for token, text in shown]}


def choices_of(report: RequestReport, texts: TokenTexts) -> dict[str, float | None]:
    """Returns the probability of each choice, or nothing where the answer had none.

    It is None where only that of several together is known.
    """
    return dict(texts.probabilities(report)) if isinstance(report.sampling.constraint, Choices) else {}


def _content(token: ChosenToken, text: str, num_top: int, texts: TokenTexts) -> dict[str, Any]:
    top = [_entry(texts.text_of(other.token_id), other.logprob) for other in token.top[:num_top]]
    return _entry(text, token.logprob) | {"top_logprobs": top}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": None if REPLACEMENT in text else list(text.encode())}
