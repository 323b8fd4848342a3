"""Choices: only they are answers, and their probabilities are those of the model's scores, summed over their tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from splitvlm.domain import Choices, ChosenToken, TokenLogprob
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.grammar.choices import ChoiceGrammar
from splitvlm.grammar.grammars import Grammars
from splitvlm.model.dummy_processor import byte_tokenizer

SIZE = 352
END, END_OF_TURN = 4, 5
LETTERS = {letter: 10 + index for index, letter in enumerate(" abcdefghijklmnopqrstuvwxyz")}
WITH_SPACE = 100  # what a letter's id is raised by where a space belongs to it


def by_letters(text: str) -> list[int]:
    return [LETTERS[letter] for letter in text]


def by_words(text: str) -> list[int]:
    """Encodes a space into the token of the letter after it, as most vocabularies do with words."""
    begun = text.startswith(" ") and len(text) > 1
    ids = by_letters(text[begun:])
    return [ids[0] + WITH_SPACE * begun, *ids[1:]]


def grammar(*texts: str, encode: Callable[[str], list[int]] = by_letters) -> ChoiceGrammar:
    return ChoiceGrammar(texts, encode, [END], SIZE)


def answered(
    texts: ChoiceGrammar, answer: Sequence[int], odds: Mapping[tuple[int, ...], Mapping[int, float]]
) -> list[int]:
    """Returns the answer's tokens as a model gives them whose probabilities at some places are `odds`."""
    matcher, tokens = texts.matcher(), list[int]()
    for token_id in answer:
        told = odds.get(tuple(tokens), dict.fromkeys(matcher.told, 0.5))
        top = tuple(TokenLogprob(other, math.log(told[other])) for other in matcher.told)
        tokens.append(ChosenToken(token_id, math.log(told.get(token_id, 1.0)), top))
        matcher.take(token_id)
    return tokens


def test_an_answer_goes_on_as_some_choice_does_and_ends_where_one_is_complete() -> None:
    matcher = grammar("no", "nod").matcher()
    seen = []
    for token_id in (*by_letters("nod"), END):
        seen.append(np.flatnonzero(matcher.allowed()).tolist())
        matcher.take(token_id)
    assert seen == [by_letters("n"), by_letters("o"), sorted([END, *by_letters("d")]), [END]]
    assert not matcher.allowed().any()


def test_a_token_of_no_choice_is_refused() -> None:
    matcher = grammar("yes", "no").matcher()
    with pytest.raises(ProtocolError):
        matcher.take(LETTERS["x"])


def test_a_choice_counts_with_and_without_a_space_before_it() -> None:
    texts = grammar("yes", "no", encode=by_words)
    y, n = by_letters("yn")
    odds = {(): {y: 0.3, n: 0.1, y + WITH_SPACE: 0.05, n + WITH_SPACE: 0.05}}
    tokens = answered(texts, [*by_words(" no"), END], odds)
    assert [each.probability for each in texts.probabilities(tokens)] == pytest.approx([0.7, 0.3])


def test_choices_that_begin_alike_are_told_apart_where_the_answer_compared_them() -> None:
    texts = grammar("red", "reddish", "blue")
    r, b, d = by_letters("rbd")
    odds = {(): {r: 0.8, b: 0.2}, tuple(by_letters("red")): {END: 0.25, d: 0.75}}
    tokens = answered(texts, [*by_letters("red"), END], odds)
    assert [each.probability for each in texts.probabilities(tokens)] == pytest.approx([0.2, 0.6, 0.2])
    tokens = answered(texts, [*by_letters("blue"), END], odds)
    assert [each.probability for each in texts.probabilities(tokens)] == [None, None, pytest.approx(0.2)]


def test_an_answer_that_was_cut_off_is_what_it_may_have_become() -> None:
    texts = grammar("left", "lemon", "right")
    odds = {
        (): {LETTERS["l"]: 0.75, LETTERS["r"]: 0.25},
        tuple(by_letters("le")): {LETTERS["f"]: 0.2, LETTERS["m"]: 0.8},
    }
    assert [
        each.probability for each in texts.probabilities(answered(texts, by_letters("lem"), odds))
    ] == pytest.approx([0.15, 0.6, 0.25])
    assert [each.probability for each in texts.probabilities(answered(texts, by_letters("le"), odds))][:2] == [
        None,
        None,
    ]


def test_any_end_token_ends_a_choice() -> None:
    texts = ChoiceGrammar(("no", "nod"), by_letters, [END, END_OF_TURN], SIZE)
    odds = {tuple(by_letters("no")): {END: 0.1, END_OF_TURN: 0.5, LETTERS["d"]: 0.2}}
    tokens = answered(texts, [*by_letters("no"), END_OF_TURN], odds)
    assert [each.probability for each in texts.probabilities(tokens)] == pytest.approx([0.75, 0.25])


def test_choices_that_the_tokenizer_does_not_write_are_refused() -> None:
    tokenizer = byte_tokenizer(SIZE, {"<|im_start|>": 1, "<image>": 3, "<end>": END}).backend_tokenizer
    grammars = Grammars(tokenizer, SIZE, [END])
    grammars.compiled(Choices(("ja", "nein, danke", "<b>", "für")))
    for text in ("<image>", "no<end>", "<|im_start|>x"):
        with pytest.raises(UsageError, match="cannot be a choice"):
            grammars.compiled(Choices(("yes", text)))


def test_a_model_without_end_tokens_has_no_structured_answers() -> None:
    tokenizer = byte_tokenizer(SIZE, {"<end>": END}).backend_tokenizer
    with pytest.raises(UsageError, match="no token that ends"):
        Grammars(tokenizer, SIZE, []).compiled(Choices(("yes",)))
