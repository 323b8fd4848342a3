"""A question: as an application asks it, and as it is run once its plan is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from splitvlm.domain import GREEDY, Plan, Sampling


@dataclass(frozen=True, slots=True)
class Question:
    """Holds what an application asks. Nothing in it was checked yet."""

    picture: bytes  # a file of any format that the device opens
    text: str
    plan: str = ""  # wanted by the caller; empty: the planner chooses
    max_new_tokens: int = 0  # 0: as many as the settings say
    sampling: Sampling = GREEDY


@dataclass(frozen=True, slots=True)
class PlannedQuestion:
    """Holds one question under one plan, which it keeps to its end (law 3)."""

    plan: Plan
    image: Image.Image  # RGB, as it was opened
    text: str
    max_new_tokens: int
    picture_name: bytes = b""  # by which a cloud node may keep the picture's prefix; empty: it may not
    sampling: Sampling = GREEDY  # everybody's who works on the answer
