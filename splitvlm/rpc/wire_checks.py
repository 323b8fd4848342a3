"""Bounds of what a control message holds: counts, lengths and numbers. Each check raises UsageError with one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sized
from typing import Final

from splitvlm.errors import UsageError

MAX_CUTS: Final = 1_024
"""Cuts of one model: as many as it has layers, and three."""
MAX_CODINGS: Final = 2_048
"""Cuts times levels. A model of 60 layers with 16 levels has 1,000; all must fit into a message of 128 KiB anyway."""
MAX_LINES: Final = 1_024
"""Lines of a table: what is left of the plans once the dominated ones are dropped, some dozens."""
MAX_LEVELS: Final = 64
MAX_VARIANTS: Final = 16
"""Variants of a device's part in one message."""
MAX_SECONDS: Final = 86_400.0
"""The longest time of any stage: a day. What takes longer is of no use, and a sum of several is still exact."""
MAX_BYTES: Final = 2**50
"""The largest size of payloads and memory: sums and products of it with bits and tokens stay exact."""
MAX_TRIPS: Final = 64
MAX_MODEL_CHARS: Final = 1_024  # a name may be a path
MAX_PROBLEM_CHARS: Final = 600
MAX_KIND_CHARS: Final = 80  # the name of a kind of question

_NODE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_INSTANCE = re.compile(r"[0-9a-f]{8,64}")
_HASH = re.compile(r"[0-9A-Za-z:+/=_-]{1,128}")


def check_numbers(what: str, numbers: Iterable[float], most: float) -> None:
    """Raises UsageError for numbers that are not finite and from 0 to `most`: such a time would make its plan win for ever."""
    for number in numbers:
        if not 0 <= number <= most:
            raise UsageError(f"{what} is {number:g}, but must be from 0 to {most:g}.")


def check_count(what: str, items: Sized, most: int) -> None:
    """Raises UsageError for more than `most` items."""
    if len(items) > most:
        raise UsageError(f"There are {len(items)} {what}, but {most} are the most.")


def check_line(what: str, text: str, most: int) -> None:
    """Raises UsageError for a text that is not one line that can be logged."""
    if len(text) > most or not text.isprintable():
        raise UsageError(f"{what} must be one line of at most {most} characters.")


def check_node(name: str) -> None:
    """Raises UsageError for a node's name that is not a DNS label."""
    if _NODE.fullmatch(name) is None:
        raise UsageError(f"{name[:80]!r} is not a name of a node.", advice="A name is a DNS label: a-z, 0-9 and -.")


def check_instance(instance: str) -> None:
    """Raises UsageError for an invalid id of a node's process."""
    if _INSTANCE.fullmatch(instance) is None:
        raise UsageError(
            "A message names no instance of its node's process.", advice="Update the older of both nodes: they differ."
        )


def check_hash(what: str, text: str) -> None:
    """Raises UsageError for a text that cannot be a hash in hexadecimal or base64."""
    if _HASH.fullmatch(text) is None:
        raise UsageError(f"{what} is not a hash.")
