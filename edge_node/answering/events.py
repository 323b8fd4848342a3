"""Events are what an application sees of one answer, in this order: the choice of plan, pieces of text, the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from edge_node.answering.report import RequestReport
from splitvlm.link.estimator import LinkEstimate
from splitvlm.planning.policy import Choice


@dataclass(frozen=True, slots=True)
class PlanChosen:
    """Says that the plan is chosen. `link` is what the link was believed to be; None where no cloud node is known."""

    choice: Choice
    link: LinkEstimate | None


class LikelyToken(NamedTuple):
    """Holds a token of the vocabulary with its log-probability at one place of an answer."""

    token_id: int
    text: bytes  # UTF-8, or part of a character
    logprob: float


class ShownToken(NamedTuple):
    """Holds a token of the shown text, and the most likely ones at its place, the likeliest first."""

    chosen: LikelyToken
    top: tuple[LikelyToken, ...]


@dataclass(frozen=True, slots=True)
class AnswerText:
    """Says how the answer's text goes on."""

    text: str
    tokens: tuple[ShownToken, ...] = ()  # those that begin in it, where log-probabilities were asked for


@dataclass(frozen=True, slots=True)
class Answered:
    """Says that the answer is complete. `warning` says why it may mean nothing; empty where nothing is known against it."""

    report: RequestReport
    warning: str


AnswerEvent = PlanChosen | AnswerText | Answered
