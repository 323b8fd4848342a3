"""Measures what a plan loses in one kind of question, and how sure that is. Shares are 0..1; no clock, no model.

A mean over all questions hides a kind that suffers: obstacles may be lost while colours are not. Kinds are asked about far
less often than all questions together, so that a kind's share is only as good as its number of questions. A kind's drop
counts where it is *significant*: where the 95 % interval of what the plan loses does not hold zero. Then the measured share
itself counts, not the friendly end of the interval. A kind that was asked a few times can therefore not forbid a plan by one
or two unlucky answers, and a kind that was not asked about says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from splitvlm.planning.numbers import number

Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class KindTally:
    """Counts questions of one kind under a plan, beside the same questions' lossless answers."""

    questions: int = 0
    lost: int = 0  # right without loss, wrong under the plan
    gained: int = 0  # the other way round

    def __add__(self, other: KindTally) -> KindTally:
        return KindTally(self.questions + other.questions, self.lost + other.lost, self.gained + other.gained)

    @property
    def drop(self) -> float:
        """Returns the share of answers that the plan loses, as it was seen."""
        return (self.lost - self.gained) / self.questions if self.questions else 0.0

    @property
    def half_interval(self) -> float:
        """Returns half of the 95 % interval of the drop.

        The adjusted Wald interval of matched pairs: half an observation is added to each of the four cells, which keeps it
        honest for small numbers (Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
        Statistics in Medicine 24, 2005).
        """
        count, net = self.questions + 2, self.lost - self.gained
        return Z_95 * math.sqrt(self.lost + self.gained + 1 - net * net / count) / count

    @property
    def significant_drop(self) -> float:
        """Returns the drop, or 0 where its interval holds zero."""
        centre = (self.lost - self.gained) / (self.questions + 2)
        return self.drop if centre > self.half_interval else 0.0


@dataclass(frozen=True, slots=True)
class KindDrop:
    """Holds the kind of question that a plan loses most of. `drop` is its significant drop. Raises UsageError."""

    kind: str
    drop: float

    def __post_init__(self) -> None:
        number(self.drop, f"The drop of {self.kind} questions", most=1.0)

    def __str__(self) -> str:
        return f"{self.kind} {100 * self.drop:.1f}"


@dataclass(frozen=True, slots=True)
class AccuracyDrop:
    """Holds what was measured of a plan's answers. Raises UsageError.

    `worst_kind` is None, unknown, where kinds of question were not told apart.
    """

    mean: float  # over all questions
    worst_kind: KindDrop | None = None

    def __post_init__(self) -> None:
        number(self.mean, "The drop of a plan", most=1.0)


NO_LOSS = AccuracyDrop(0.0, KindDrop("any", 0.0))
"""The drop of exact plans, which is known without a measurement (Plan.is_exact)."""


def worst_kind(kinds: Mapping[str, KindTally]) -> KindDrop | None:
    """Returns the kind of the largest significant drop; None where no kind was measured."""
    drops = (KindDrop(kind, tally.significant_drop) for kind, tally in kinds.items() if tally.questions)
    return max(drops, key=lambda worst: (worst.drop, kinds[worst.kind].drop), default=None)
