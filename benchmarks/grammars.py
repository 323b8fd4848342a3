"""Seconds that grammar libraries take, for vocabularies of two sizes. One line a schema; the last line is JSON.

    python benchmarks/grammars.py [--library llguidance|xgrammar] [--answers N] [--vocabularies 49152 151936]

xgrammar is no dependency: to compare, run the file in an environment that has it, with tokenizers and numpy.
Data: vocabularies of bytes and of made-up words of one to eight letters, digits and signs; answers whose tokens are drawn
evenly from what is allowed, ended at the end token's first chance in three, or after 150 tokens.
Formulas. tokenizer_s: from the tokenizer to what compiles. compile_ms: one schema, with nothing cached. mask_ms: from an
answer's state to the packed bits of the allowed tokens, median, 99th percentile and maximum over all answers.
Unfairness: words that nobody writes make other tries than a trained vocabulary; xgrammar compiles in one thread, as llguidance
does, though it could use more.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LETTERS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;-_{}[]()"'
MOST_TOKENS = 150
ALARM: dict[str, Any] = {
    "type": "object",
    "properties": {
        "person": {"type": "boolean"},
        "count": {"type": "integer", "minimum": 0, "maximum": 20},
        "colour": {"enum": ["red", "green", "blue", None]},
        "note": {"type": "string", "maxLength": 40},
    },
    "required": ["person", "count", "colour", "note"],
    "additionalProperties": False,
}
SCHEMAS = {
    "alarm": ALARM,
    "object": {"type": "object"},
    "200 values": {"enum": [f"value number {number}" for number in range(200)]},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,6}$"},
}


class Answer(NamedTuple):
    """Holds how one answer goes on: what is allowed, as packed bits, and what is taken."""

    mask: Callable[[], NDArray[np.uint8]]
    take: Callable[[int], object]


Compile = Callable[[str], Callable[[], Answer]]


def tokenizer(size: int) -> Any:
    """Returns a tokenizer of bytes and made-up words, whose last token ends answers."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    source, written = random.Random(1), sorted(pre_tokenizers.ByteLevel.alphabet())
    seen = dict.fromkeys(written)
    while len(seen) < size - 1:
        word = "".join(source.choices(LETTERS, k=source.randint(1, 8))).replace(" ", "Ġ")
        seen.setdefault(word)
    vocabulary = Tokenizer(models.BPE(vocab={word: index for index, word in enumerate(seen)}, merges=[]))
    vocabulary.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary.decoder = decoders.ByteLevel()
    vocabulary.add_special_tokens([AddedToken("<end>", special=True, normalized=False)])
    return vocabulary


def by_llguidance(vocabulary: Any, end: int) -> Compile:
    from llguidance import LLMatcher, LLTokenizer

    known = LLTokenizer(vocabulary.to_str(), eos_token=[end])

    def compiled(schema: str) -> Callable[[], Answer]:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": " ?"})
        first = LLMatcher(known, grammar, log_level=0)

        def begun() -> Answer:
            matcher = first.deep_copy()
            return Answer(lambda: np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), matcher.consume_token)

        return begun

    return compiled


def by_xgrammar(vocabulary: Any, end: int) -> Compile:
    import xgrammar

    words = [word for word, _ in sorted(vocabulary.get_vocab().items(), key=lambda entry: entry[1])]
    known = xgrammar.TokenizerInfo(words, xgrammar.VocabType.BYTE_LEVEL, vocab_size=len(words), stop_token_ids=[end])
    compiler = xgrammar.GrammarCompiler(known, max_threads=1)

    def compiled(schema: str) -> Callable[[], Answer]:
        grammar = compiler.compile_json_schema(schema, any_whitespace=False)

        def begun() -> Answer:
            matcher, bits = xgrammar.GrammarMatcher(grammar), xgrammar.allocate_token_bitmask(1, len(words))

            def mask() -> NDArray[np.uint8]:
                matcher.fill_next_token_bitmask(bits)
                packed: NDArray[np.uint8] = bits.numpy().view(np.uint8)[0]
                return packed

            return Answer(mask, matcher.accept_token)

        return begun

    return compiled


LIBRARIES = {"llguidance": by_llguidance, "xgrammar": by_xgrammar}


def mask_times(answer: Answer, end: int, size: int, seed: int) -> Iterator[float]:
    """Yields the seconds of each mask of one random answer."""
    source = random.Random(seed)
    for _ in range(MOST_TOKENS):
        began_s = time.perf_counter()
        bits = answer.mask()
        yield time.perf_counter() - began_s
        allowed = np.flatnonzero(np.unpackbits(bits, count=size, bitorder="little"))
        token_id = end if end in allowed and source.random() < 1 / 3 else int(source.choice(allowed.tolist()))
        answer.take(token_id)
        if token_id == end:
            return


def measured(library: str, size: int, num_answers: int) -> dict[str, Any]:
    vocabulary = tokenizer(size)
    end = vocabulary.token_to_id("<end>")
    began_s = time.perf_counter()
    compile_schema = LIBRARIES[library](vocabulary, end)
    result: dict[str, Any] = {"tokenizer_s": round(time.perf_counter() - began_s, 3)}
    for name, schema in SCHEMAS.items():
        began_s = time.perf_counter()
        begin = compile_schema(json.dumps(schema))
        compile_ms = 1e3 * (time.perf_counter() - began_s)
        times = 1e3 * np.array([s for seed in range(num_answers) for s in mask_times(begin(), end, size, seed)])
        quantiles = {
            name: round(float(np.quantile(times, q)), 3) for name, q in (("p50", 0.5), ("p99", 0.99), ("max", 1))
        }
        result[name] = {"compile_ms": round(compile_ms, 1), "mask_ms": quantiles, "masks": len(times)}
        print(f"{library}, {size} tokens, {name}: {result[name]}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", choices=LIBRARIES, default="llguidance")
    parser.add_argument("--answers", type=int, default=20)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[49_152, 151_936])
    options = parser.parse_args()
    sizes = {str(size): measured(options.library, size, options.answers) for size in options.vocabularies}
    print(json.dumps({"library": options.library, "vocabularies": sizes}))


if __name__ == "__main__":
    main()
