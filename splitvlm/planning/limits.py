"""Forbids plans by the configuration's limits, and tells in a sentence which limit did.

What nobody measured of a plan is unknown, and may be as bad as 1: a limit below 1 forbids it, and says how it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitvlm.domain import DEVICE, FULL, Cut
from splitvlm.errors import ConfigError
from splitvlm.planning.costs import CostLine

MAX_KIND_DROP = 0.03  # unless a configuration says otherwise: no kind of question may lose more than 3 points
_EVALUATE, _EVALUATE_VARIANT = "splitvlm evaluate MODEL --plans", "splitvlm variant measure DIR"
_MEASURED_BY = {
    "max_accuracy_drop": (_EVALUATE, _EVALUATE_VARIANT),
    "max_kind_drop": (_EVALUATE, _EVALUATE_VARIANT),
    "max_leak": ("splitvlm leak MODEL", "splitvlm leak MODEL --variant DIR"),
}
"""The commands that measure what a limit is about: of the model's own plans, and of a variant's."""


@dataclass(frozen=True, slots=True)
class Objection:
    """Names a limit that forbids a plan; `unknown` where nobody measured what the limit is about."""

    limit: str
    unknown: bool = False
    variant: str = FULL

    @property
    def measured_by(self) -> str:
        """Returns the command that measures what the limit is about."""
        own, of_variant = _MEASURED_BY[self.limit]
        return own if self.variant == FULL else of_variant

    def __str__(self) -> str:
        return f"{self.limit} (unknown: measure it with `{self.measured_by}`)" if self.unknown else self.limit


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """Holds what the configuration forbids. None forbids nothing; nor does 1, not even what is unknown."""

    max_accuracy_drop: float | None = None  # over all questions
    max_kind_drop: float | None = None  # of any kind of question, where it is significant (splitvlm.planning.kinds)
    device_memory_bytes: int | None = None
    max_leak: float | None = None  # of a picture, by what crosses
    levels: frozenset[str] | None = None  # codec levels allowed; `device` has none and is not asked
    cuts: frozenset[Cut] | None = None

    def forbidding(self, line: CostLine) -> tuple[Objection, ...]:
        """Returns the limits that forbid this line; empty when it is allowed."""
        measured = (
            ("max_accuracy_drop", self.max_accuracy_drop, line.accuracy_drop),
            ("max_kind_drop", self.max_kind_drop, _worst_drop(line)),
            ("max_leak", self.max_leak, line.leak),
        )
        objections = [
            Objection(name, value is None, line.plan.variant)
            for name, limit, value in measured
            if limit is not None and (1.0 if value is None else value) > limit
        ]
        memory, cut, level = self.device_memory_bytes, line.plan.cut, line.plan.level
        if memory is not None and line.device_memory_bytes > memory:
            objections.append(Objection("device_memory_bytes"))
        if self.levels is not None and cut != DEVICE and level not in self.levels:
            objections.append(Objection("levels"))
        if self.cuts is not None and cut not in self.cuts:
            objections.append(Objection("cuts"))
        return tuple(objections)


def _worst_drop(line: CostLine) -> float | None:
    """Returns the share that the worst kind of question loses; None, unknown, where kinds were not told apart."""
    return None if line.worst_kind is None else line.worst_kind.drop


def unmeasured(lines: Sequence[CostLine], limits: PlanLimits) -> str:
    """Returns a sentence about the plans that are forbidden only because what a limit is about is unknown; else empty."""
    objections = [limits.forbidding(line) for line in lines]
    unknown = [broken for broken in objections if broken and all(objection.unknown for objection in broken)]
    if not unknown:
        return ""
    every = [objection for broken in unknown for objection in broken]
    names = list(dict.fromkeys(objection.limit for objection in every))
    commands = " and ".join(f"`{command}`" for command in dict.fromkeys(objection.measured_by for objection in every))
    allow = "" if "max_leak" in names else f", or allow them by a {' and '.join(names)} of 1"
    which = f"{len(unknown)} plans are" if len(unknown) > 1 else "1 plan is"
    return (
        f"{which} forbidden by {' and '.join(names)}, because nobody measured what the limit is about: "
        f"measure it with {commands}{allow}."
    )


def nothing_left(lines: Sequence[CostLine], limits: PlanLimits) -> ConfigError:
    """Returns the error that names the limits which forbid every plan, and how near the plans come."""
    if not lines:
        return ConfigError("There is no plan: no cut was measured on both sides, and the device cannot hold the model.")
    broken = [limits.forbidding(line) for line in lines]
    names = [[objection.limit for objection in objections] for objections in broken]
    alone = [name for name in names[0] if all(name in others for others in names)]
    if alone:
        culprit = f"{alone[0]} = {_shown(getattr(limits, alone[0]))} forbids every plan"
    else:
        culprit = "; ".join(
            f"{line.plan} is forbidden by {', '.join(map(str, objections))}"
            for line, objections in zip(lines, broken, strict=True)
        )
    return ConfigError(f"No plan is allowed: {culprit}.", advice=_nearest(lines, alone))


def _nearest(lines: Sequence[CostLine], alone: list[str]) -> str:
    """Returns a sentence that says what the limit would have to be for one plan to pass."""
    if alone == ["max_accuracy_drop"]:
        return _least("drop of any plan", alone[0], [line.accuracy_drop for line in lines], 4)
    if alone == ["max_kind_drop"]:
        return _least("that any plan loses of its worst kind", alone[0], list(map(_worst_drop, lines)), 4)
    if alone == ["max_leak"]:
        return _least("leak of any plan", alone[0], [line.leak for line in lines], 3)
    if alone == ["device_memory_bytes"]:
        return f"The smallest plan needs {min(line.device_memory_bytes for line in lines)} bytes."
    return f"Plans: {', '.join(str(line.plan) for line in lines)}."


def _least(what: str, limit: str, values: Sequence[float | None], decimals: int) -> str:
    known = [value for value in values if value is not None]
    unknown = len(values) - len(known)
    told = f"The least {what} is {min(known):.{decimals}f}." if known else ""
    more = f"{unknown} of {len(values)} are unknown: measure them with `{_MEASURED_BY[limit][0]}`." if unknown else ""
    return f"{told} {more}".strip()


def _shown(limit: object) -> str:
    return ", ".join(sorted(str(item) for item in limit)) if isinstance(limit, frozenset) else str(limit)
