"""A constraint says which texts may be an answer: JSON by a schema, or one of several choices. Nothing else is ever given."""

from __future__ import annotations

from dataclasses import dataclass

from splitvlm.errors import UsageError

MAX_SCHEMA_BYTES = 16 * 1024  # in UTF-8: larger ones are not written by hand, and take long to compile
MAX_CHOICES = 64
MAX_CHOICE_BYTES = 256


def _utf8_bytes(what: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} holds half a surrogate pair, which is no character.") from error


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """Asks for a JSON text that is valid by a schema. Whether it is a schema, the grammar library says.

    Raises UsageError when made.
    """

    text: str  # the schema itself, which is JSON

    def __post_init__(self) -> None:
        num_bytes = _utf8_bytes("The JSON schema", self.text)
        if not 1 <= num_bytes <= MAX_SCHEMA_BYTES:
            raise UsageError(f"A JSON schema has from 1 to {MAX_SCHEMA_BYTES} bytes, not {num_bytes}.")


@dataclass(frozen=True, slots=True)
class Choices:
    """Asks for one of several texts, and for the probability of each. Raises UsageError when made."""

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.texts) <= MAX_CHOICES:
            raise UsageError(f"There are {len(self.texts)} choices, but an answer is one of 1 to {MAX_CHOICES}.")
        for text in self.texts:
            num_bytes = _utf8_bytes("A choice", text)
            if not text.strip() or text != text.strip() or num_bytes > MAX_CHOICE_BYTES:
                raise UsageError(
                    f"{text[:40]!r} cannot be a choice.",
                    advice=f"A choice has from 1 to {MAX_CHOICE_BYTES} bytes, and no white space around it.",
                )
        if len(set(self.texts)) < len(self.texts):
            raise UsageError("One choice is there twice.", advice="Name each once: their probabilities add up to 1.")


AnswerConstraint = JsonSchema | Choices

JSON_OBJECT = JsonSchema('{"type": "object"}')
"""Any JSON object."""
