"""A question: as an application asks it, and as it is run once its plan is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from splitvlm.domain import GREEDY, Conversation, Plan, Sampling
from splitvlm.model.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Question:
    """Holds what an application asks. Nothing in it but the conversation's form was checked yet."""

    conversation: Conversation
    images: tuple[bytes, ...] = ()  # files of any format that the device opens, in the order of the image parts
    plan: str = ""  # wanted by the caller; empty: the planner chooses
    max_new_tokens: int = 0  # 0: as many as the settings say
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()  # the answer ends before the first of these strings, which is not shown


@dataclass(frozen=True, slots=True)
class PlannedQuestion:
    """Holds one question under one plan, which it keeps to its end (law 3)."""

    plan: Plan
    prompt: Prompt
    max_new_tokens: int
    prefix_names: tuple[bytes, ...] = ()  # by which a cloud node may keep what the prompt leaves; none: it may not
    sampling: Sampling = GREEDY  # everybody's who works on the answer
