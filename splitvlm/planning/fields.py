"""Types of configuration keys that hold cuts and plans as text, and limits: checked when the file is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field

from splitvlm.domain import Cut, Plan
from splitvlm.errors import UsageError

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
LeakLimit = Annotated[float, Field(ge=0, lt=1)]
"""The most of a picture that may leak: 0 is what a blank picture tells, 1 the picture. A limit of 1 would forbid nothing."""
