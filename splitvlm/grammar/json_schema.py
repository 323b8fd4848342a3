"""Answers that are JSON by a schema, by llguidance (docs/adr/0014-llguidance-decides-which-tokens-may-follow.md).

Its limits bound the time and memory that a schema takes, because a cloud node compiles what its devices send: what no answer
needs is refused with one sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitvlm.errors import ProtocolError, UsageError
from splitvlm.files.text import parse_json

MOST_MULTIPLE = (
    1000  # of all `multipleOf` of a schema together: their automaton has as many states, and one of 999,983 takes 44 s
)
_LIMITS = {
    "initial_lexer_fuel": 300_000,  # about 6 ms
    "step_lexer_fuel": 100_000,  # about 7 ms
    "step_max_items": 20_000,  # about 1 ms
    "max_lexer_states": 20_000,  # of 1 to 2 kB
    "max_grammar_size": 100_000,
    "verbose_errors": False,  # nothing of a schema goes to a log
}
_OPTIONS = {
    "whitespace_pattern": " ?",  # as most models write it; a line of white space without end would be JSON, too
    "lenient": False,  # keywords that it does not know are refused, not ignored: the answer must be valid
    "coerce_one_of": False,
    "json_allow_general_unicode_escapes": False,
}


class SchemaGrammar:
    """Implements `Grammar` for a JSON schema."""

    def __init__(self, schema: str, tokenizer: Any, size: int) -> None:
        """Compiles a schema for llguidance's `tokenizer`. Raises UsageError for what is no schema that it takes."""
        from llguidance import LLMatcher, LLParserLimits

        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)
        except ValueError as error:
            raise _refused(str(error)) from error
        _check_multiples(schema)
        self._matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(**_LIMITS))
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error())
        self._size = size

    def matcher(self) -> SchemaMatcher:
        return SchemaMatcher(self._matcher.deep_copy(), self._size)


class SchemaMatcher:
    """Implements `Matcher` for a JSON schema."""

    told: tuple[int, ...] = ()

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher = matcher
        self._size = size

    def allowed(self) -> NDArray[np.bool_]:
        """Returns the tokens that may follow. Raises UsageError where finding them out takes more than the limits allow."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise UsageError("The JSON schema became too complex in the middle of an answer.", advice="Simplify it.")
        return np.unpackbits(bits, count=self._size, bitorder="little").view(np.bool_)

    def take(self, token_id: int) -> None:
        if not self._matcher.consume_token(int(token_id)):
            raise ProtocolError("The answer went on with a token that its JSON schema does not allow.")


def _refused(why: str) -> UsageError:
    sentence = why.split("\n", 1)[0].rstrip(". :")[:200]
    return UsageError(
        f"The JSON schema cannot be used: {sentence}.", advice="docs/guide/structured.md says what a schema may hold."
    )


def _check_multiples(schema: str) -> None:
    """Raises UsageError for numbers in `multipleOf` whose automaton would take long to make."""
    multiples = list(_multiples(parse_json(schema, "the JSON schema")))
    if any(not 0 < number < 2**63 for number in multiples) or lcm(*multiples) > MOST_MULTIPLE:
        raise _refused(f"its numbers of multipleOf are together at most {MOST_MULTIPLE}, without their trailing zeros")


def _multiples(value: Any) -> Iterator[int]:
    """Yields the digits of each `multipleOf` as a whole number: 25 for 0.025 and for 2500."""
    if isinstance(value, dict):
        number = value.get("multipleOf")
        if isinstance(number, int | float) and not isinstance(number, bool):
            digits = Decimal(str(number)).normalize().as_tuple().digits
            yield int("".join(map(str, digits)) or "0")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _multiples(item)
