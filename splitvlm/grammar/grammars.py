"""Compiles constraints for one model's tokenizer, and keeps what was compiled while somebody uses it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

from splitvlm.domain import AnswerConstraint, Choices
from splitvlm.errors import UsageError, first_sentence
from splitvlm.grammar.choices import ChoiceGrammar
from splitvlm.grammar.grammar import Grammar, Matcher
from splitvlm.grammar.json_schema import SchemaGrammar

KEPT = 8  # compiled constraints that nobody uses at the moment


class Grammars:
    """Compiles constraints. Its methods may be called from any thread, and one compiles at a time."""

    def __init__(self, tokenizer: Any, size: int, end_ids: Iterable[int]) -> None:
        """Takes a tokenizer of the tokenizers library, the number of a model's scores, and the tokens that end its answers."""
        self._tokenizer = tokenizer
        self._size = size
        self._end_ids = tuple(sorted(end_ids))
        self._compiled: WeakValueDictionary[AnswerConstraint, ChoiceGrammar | SchemaGrammar] = WeakValueDictionary()
        self._recent: deque[ChoiceGrammar | SchemaGrammar] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")

    def compiled(self, constraint: AnswerConstraint) -> ChoiceGrammar | SchemaGrammar:
        """Returns a constraint's grammar. Raises UsageError for one that cannot be compiled.

        It may take a second at the first call, and milliseconds later: not for an event loop, unless whoever calls holds the
        grammar already.
        """
        with self._lock:
            grammar = self._compiled.get(constraint)
            if grammar is None:
                grammar = self._compiled[constraint] = self._compile(constraint)
                self._recent.append(grammar)
        return grammar

    async def ready(self, constraint: AnswerConstraint) -> Grammar:
        """Returns a constraint's grammar, which is compiled in a thread of its own.

        While it is held, `matcher` has no work. Raises UsageError for a constraint that cannot be compiled.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.compiled, constraint)

    def matcher(self, constraint: AnswerConstraint) -> Matcher:
        """Returns a matcher at the beginning of an answer. Raises UsageError for a constraint that cannot be compiled."""
        return self.compiled(constraint).matcher()

    def _compile(self, constraint: AnswerConstraint) -> ChoiceGrammar | SchemaGrammar:
        if not self._end_ids:
            raise UsageError(
                "This model has no token that ends an answer, so that none can be structured.",
                advice="Set eos_token_id in its generation_config.json.",
            )
        if isinstance(constraint, Choices):
            return ChoiceGrammar(constraint.texts, self._encoded, self._end_ids, self._size)
        return SchemaGrammar(constraint.text, self._library_tokenizer, self._size)

    def _encoded(self, text: str) -> list[int]:
        """Returns the tokens of a choice. Raises UsageError for a text that they do not give back."""
        token_ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._tokenizer.decode(token_ids, skip_special_tokens=True).strip() != text.strip():
            raise UsageError(
                f"{text.strip()[:40]!r} cannot be a choice: this model's tokenizer does not write it.",
                advice="Write it otherwise; special tokens are no text.",
            )
        return token_ids

    @cached_property
    def _library_tokenizer(self) -> Any:
        """Returns llguidance's form of the tokenizer. Raises UsageError for a kind that it does not know."""
        from llguidance import LLTokenizer
        from tokenizers import Tokenizer

        copied = Tokenizer.from_str(self._tokenizer.to_str())
        copied.no_padding()
        copied.no_truncation()
        num_ids = max(self._size, 1 + max(copied.get_vocab(with_added_tokens=True).values()))
        try:
            return LLTokenizer(copied.to_str(), n_vocab=num_ids, eos_token=list(self._end_ids))
        except ValueError as error:
            raise UsageError(
                f"This model's tokenizer cannot be held to a JSON schema: {first_sentence(error)}",
                advice="Ask for one of some choices, or another model.",
            ) from error
