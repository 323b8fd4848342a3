"""The kind `student-tower`: a narrow tower that speaks the parent's visual tokens; the cloud's upper part stays as it is.

It has the parent's depth and begins as the parent's most important heads and channels, refitted to the parent's states:
students of fewer whole layers begin further away. Then it is taught the parent's tokens, longer and faster than a pruned tower,
without labels (Hinton et al., arXiv 1503.02531).
"""

from __future__ import annotations

from splitvlm.variants import teaching
from splitvlm.variants.folder import Made
from splitvlm.variants.making import Making, Option
from splitvlm.variants.prune import make_pruned

OPTIONS: dict[str, Option] = {"share": 0.65, **teaching.OPTIONS, "steps": 1500, "rate": 8e-4}
"""`share` is that of the parent's layers which the student does without."""


def make_student_tower(making: Making) -> Made:
    """Teaches a student that has the parent's tokens to give in a fraction of its time. Raises UsageError, Cancelled."""
    return make_pruned(making)
