"""A plan names one way to serve a request: where the model is divided, how what crosses is coded, which form the device runs.

Plans are frozen: one that was chosen cannot change under a running request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from splitvlm.errors import UsageError


class CutKind(StrEnum):
    """Says where the model is divided, from shallow to deep (DESIGN.md section 2)."""

    IMAGE = "image"
    VISION = "vision"
    TOKENS = "tokens"
    LM = "lm"
    DEVICE = "device"


FULL = "full"
"""The variant that is the undivided model's own part."""

_DEPTH = {kind: depth for depth, kind in enumerate(CutKind)}
_WITH_LAYERS = (CutKind.VISION, CutKind.LM)
_TEXT = re.compile(r"(image|tokens|device)|(vision|lm):([1-9][0-9]{0,3})")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}")  # of a level or a variant


@dataclass(frozen=True, slots=True)
class Cut:
    """Names a place to divide the model. `layers` is the number of layers on the device, for `vision:k` and `lm:k` only.

    `vision:k` with k = the tower's depth still leaves the tower's final norm and the connector to the cloud.
    """

    kind: CutKind
    layers: int = 0

    @classmethod
    def parse(cls, text: str) -> Cut:
        """Reads a cut: `image`, `vision:3`, `tokens`, `lm:2` or `device`. Raises UsageError."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"'{text[:40]}' is not a cut.",
                advice="A cut is image, vision:k, tokens, lm:k or device, with k from 1.",
            )
        if match[1]:
            return cls(CutKind(match[1]))
        return cls(CutKind(match[2]), int(match[3]))

    def __str__(self) -> str:
        return f"{self.kind}:{self.layers}" if self.kind in _WITH_LAYERS else str(self.kind)

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts cuts by how much the device runs."""
        return _DEPTH[self.kind], self.layers

    @property
    def decodes_on_device(self) -> bool:
        """Tells whether the device runs the whole model, so that nothing crosses the link."""
        return self.kind is CutKind.DEVICE

    @property
    def trips_per_token(self) -> int:
        """Returns the round trips that each generated token costs: a cut in the language model pays one, the others none."""
        return 1 if self.kind is CutKind.LM else 0


IMAGE = Cut(CutKind.IMAGE)
TOKENS = Cut(CutKind.TOKENS)
DEVICE = Cut(CutKind.DEVICE)


def every_cut(vision_layers: int, lm_layers: int) -> tuple[Cut, ...]:
    """Returns all cuts of a model with so many vision and language layers, from shallow to deep."""
    vision = (Cut(CutKind.VISION, k) for k in range(1, vision_layers + 1))
    lm = (Cut(CutKind.LM, k) for k in range(1, lm_layers + 1))
    return (IMAGE, *vision, TOKENS, *lm, DEVICE)


@dataclass(frozen=True, slots=True)
class Plan:
    """Names one way to serve a request. Everything that is measured is measured of a whole plan.

    `level` names a codec level (splitvlm.codec.levels); the cut `device` has the level `none`. `variant` names the form of
    the device's part.
    """

    cut: Cut
    level: str
    variant: str = FULL

    def __str__(self) -> str:
        tail = "" if self.variant == FULL else f"@{self.variant}"
        return f"{self.cut}/{self.level}{tail}"

    @property
    def is_exact(self) -> bool:
        """Tells whether its answers are the undivided model's (DESIGN.md, law 1), so that nothing needs to be measured."""
        return self.variant == FULL and (self.level == "lossless" or self.cut == DEVICE)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Reads `tokens/int4`, `tokens/int4@w8` or `device`; without a variant it is `full`. Raises UsageError."""
        cut_and_level, _, variant = text.partition("@")
        cut_text, _, level = cut_and_level.partition("/")
        cut = Cut.parse(cut_text)
        variant = parse_variant(variant or FULL)
        if cut == DEVICE:
            return cls(DEVICE, "none", variant)
        return cls(cut, parse_level(level or "lossless"), variant)


def parse_level(text: str) -> str:
    """Returns the name of a codec level; whether it exists, the codec knows. Raises UsageError."""
    return _label("codec level", text)


def parse_variant(text: str) -> str:
    """Returns the name of a variant, checked for its form. Raises UsageError."""
    return _label("variant", text)


def _label(what: str, text: str) -> str:
    if _LABEL.fullmatch(text) is None:
        raise UsageError(
            f"{text[:40]!r} is not the name of a {what}.",
            advice="A plan is cut/level, e.g. tokens/int4 or image/jpeg75.",
        )
    return text
