"""Types of configuration keys that hold cuts, plans and privacy floors as text: checked when the file is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

from splitvlm.domain import Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.planning.table import parse_floor

T = TypeVar("T")


def _parses_by(parse: Callable[[T], Any]) -> AfterValidator:
    def check(text: T) -> T:
        try:
            parse(text)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


CutText = Annotated[str, _parses_by(Cut.parse)]
PlanText = Annotated[str, _parses_by(Plan.parse)]
FloorText = Annotated[float | str, _parses_by(parse_floor)]
"""The shallowest cut that may leave the device, or the most of the picture that may leak, from 0 to 1."""
