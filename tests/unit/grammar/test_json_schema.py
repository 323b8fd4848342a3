"""JSON schemas: random tokens under one are valid JSON by another library's opinion; what cannot be used gets a sentence."""

from __future__ import annotations

import gc
import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from splitvlm.domain import JSON_OBJECT, JsonSchema
from splitvlm.errors import ProtocolError, UsageError
from splitvlm.grammar.grammars import KEPT, Grammars
from splitvlm.model.dummy_processor import byte_tokenizer
from tests.unit.model.test_text import sentencepiece_like

SIZE, END = 352, 4
SPECIAL = {"<|im_start|>": 1, "<pad>": 2, "<image>": 3, "<end>": END}
TOKENIZER = byte_tokenizer(SIZE, SPECIAL).backend_tokenizer
ALARM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "person": {"type": "boolean"},
        "count": {"type": "integer", "minimum": 0, "maximum": 20},
        "colour": {"enum": ["red", "green", None]},
        "note": {"type": "string", "maxLength": 6},
        "box": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 1, "maxItems": 2},
    },
    "required": ["person", "count", "colour", "note"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(TOKENIZER, SIZE, [END])


def random_answer(grammars: Grammars, schema: dict[str, Any], seed: int) -> list[int]:
    matcher = grammars.matcher(JsonSchema(json.dumps(schema)))
    generator, answer = random.Random(seed), list[int]()
    while not answer or answer[-1] != END:
        answer.append(generator.choice(np.flatnonzero(matcher.allowed()).tolist()))
        matcher.take(answer[-1])
    return answer


@pytest.mark.parametrize("seed", range(10))
def test_random_tokens_under_a_schema_are_valid(grammars: Grammars, seed: int) -> None:
    answer = random_answer(grammars, ALARM, seed)
    jsonschema.validate(json.loads(TOKENIZER.decode(answer)), ALARM)


def test_no_special_token_is_allowed_but_the_end_where_the_answer_may_end(grammars: Grammars) -> None:
    answer = random_answer(grammars, ALARM, 3)
    matcher = grammars.matcher(JsonSchema(json.dumps(ALARM)))
    for token_id in answer:
        allowed_V = matcher.allowed()
        assert not allowed_V[list({*SPECIAL.values()} - {END})].any()
        assert allowed_V[END] == (token_id == END)
        matcher.take(token_id)


def test_a_matcher_that_was_given_the_tokens_allows_what_the_first_one_did(grammars: Grammars) -> None:
    answer, schema = random_answer(grammars, ALARM, 5), JsonSchema(json.dumps(ALARM))
    first = grammars.matcher(schema)
    for length in range(len(answer)):
        later = grammars.matcher(schema)
        for token_id in answer[:length]:
            later.take(token_id)
        assert np.array_equal(later.allowed(), first.allowed())
        first.take(answer[length])


def test_a_token_that_the_schema_does_not_allow_is_refused(grammars: Grammars) -> None:
    matcher = grammars.matcher(JSON_OBJECT)
    with pytest.raises(ProtocolError):
        matcher.take(END)


@pytest.mark.parametrize(
    "schema",
    [
        "nonsense",
        "[]",
        "true",
        "{",
        '{"type": "objct"}',
        '{"type": "string", "pattern": "("}',
        '{"not": {}}',
        '{"type": "array", "uniqueItems": true}',
        '{"$ref": "#/nowhere"}',
        '{"$ref": "http://example.org/schema"}',
        '{"enum": []}',
        '{"type": "string", "minLength": 3, "maxLength": 2}',
        '{"type": "integer", "multipleOf": 999983}',
        '{"type": "integer", "multipleOf": 0}',
        '{"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}',
        '{"x-guidance": {"lenient": true}, "not": {}}',
        '{"a":' * 400 + "1" + "}" * 400,
        json.dumps({"allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(4)]} for i in range(10)]}),
    ],
)
def test_what_cannot_be_used_gets_one_sentence(grammars: Grammars, schema: str) -> None:
    with pytest.raises(UsageError) as caught:
        grammars.compiled(JsonSchema(schema))
    assert "\n" not in caught.value.sentence
    assert len(caught.value.sentence) < 300


def test_small_multiples_are_taken(grammars: Grammars) -> None:
    grammars.compiled(JsonSchema('{"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 5000}'))
    grammars.compiled(JsonSchema('{"properties": {"multipleOf": {"type": "integer", "multipleOf": 250000}}}'))


def test_what_was_compiled_is_kept_while_it_is_used(grammars: Grammars) -> None:
    held = grammars.compiled(JSON_OBJECT)
    for number in range(KEPT + 1):
        grammars.compiled(JsonSchema(f'{{"const": {number}}}'))
    gc.collect()
    assert grammars.compiled(JSON_OBJECT) is held


def test_a_tokenizer_that_the_library_does_not_know_is_named() -> None:
    words = Tokenizer(WordLevel({"two": 0, "cells": 1, "<end>": END}, unk_token="two"))
    with pytest.raises(UsageError, match="tokenizer"):
        Grammars(words, SIZE, [END]).compiled(JSON_OBJECT)


@pytest.mark.parametrize("strips", [True, False])
def test_a_vocabulary_of_word_pieces_and_bytes_writes_json(strips: bool) -> None:
    core = sentencepiece_like(strips=strips).backend_tokenizer
    end = core.token_to_id("</s>")
    matcher = Grammars(core, core.get_vocab_size(), [end]).matcher(JsonSchema('{"enum": ["hello \u65e5"]}'))
    answer = list[int]()
    while not answer or answer[-1] != end:
        answer.append(int(np.flatnonzero(matcher.allowed())[-1]))
        matcher.take(answer[-1])
    assert json.loads(core.decode(answer)) == "hello \u65e5"
