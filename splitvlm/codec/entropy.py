"""Quantised coefficients as the bytes of a range coder, by columns, under the entropy model of their level.

    stream := range coder's words, little-endian, without the zero bytes at its end

A long band that is zero nearly everywhere is told otherwise (gaps.py): the number of its symbols, those, then its values.

A value beyond its column's reach is an escape: then the binary length of what is beyond, its sign, and its lower bits
follow in the same stream, after the column or band. The coder is constriction's (Bamler, "Understanding Entropy Coding With
Asymmetric Numeral Systems", 2022). T tokens, K columns.
"""

from __future__ import annotations

from typing import Any, Final

import constriction
import numpy as np

from splitvlm.codec import gaps
from splitvlm.codec.context import Context
from splitvlm.codec.entropy_model import F32, EntropyModel
from splitvlm.codec.header import malformed
from splitvlm.codec.sparse import I64, Coefficients, Whole

LARGEST: Final = 2**21 - 1
_LENGTHS: Final = 22  # of what is beyond the reach: 0 to 21 bits
_models: Final = constriction.stream.model  # built in: cannot be imported from
_FAMILY: Final = _models.Categorical(perfect=False)
_WORD: Final = np.dtype("<u4")


def encode(q_TK: Whole, entropy_model: EntropyModel) -> bytes:
    """Coefficients of magnitude at most LARGEST."""
    coder = constriction.stream.queue.RangeEncoder()
    context = Context(entropy_model, len(q_TK))
    for column in range(min(entropy_model.columns, q_TK.shape[1])):
        q_T = q_TK[:, column][context.grid.order]
        for tokens in context.passes(column):
            weights_TV = context.weights(column, tokens)
            _encode_values(coder, q_T[tokens], int(entropy_model.reach[column]), _FAMILY, weights_TV)
            context.learn(column, tokens, q_T[tokens])
    for start, stop, weights_V in entropy_model.shared(q_TK.shape[1]):
        q_N = q_TK[:, start:stop].T.reshape(-1)
        if gaps.pays(len(q_TK), len(q_N), weights_V):
            _encode_sparse(coder, q_N, weights_V)
        else:
            _encode_values(coder, q_N, _reach(weights_V), _same_for_all(weights_V, lazy=False))
    return np.asarray(coder.get_compressed(), _WORD).tobytes().rstrip(b"\0")


def decode(data: bytes, num_tokens: int, columns: int, entropy_model: EntropyModel, *, dense: int = 0) -> Coefficients:
    """Returns [T, columns], of which at least the first `dense` are an array. Raises ProtocolError."""
    words = np.frombuffer(data + bytes(-len(data) % _WORD.itemsize), _WORD).astype(np.uint32)
    coder = constriction.stream.queue.RangeDecoder(words)
    context = Context(entropy_model, num_tokens)
    runs = [
        (*run, gaps.pays(num_tokens, num_tokens * (run[1] - run[0]), run[2])) for run in entropy_model.shared(columns)
    ]
    # What is sparse after the last column that is wanted as an array stays as its values.
    wanted = [stop for start, stop, _, sparse in runs if start < dense or not sparse]
    q_DT = np.zeros((max([min(entropy_model.columns, columns), *wanted]), num_tokens), np.int32)
    apart = [(np.zeros(0, np.int64), np.zeros(0, np.int32))]
    try:
        for column in range(min(entropy_model.columns, columns)):
            for tokens in context.passes(column):
                weights_TV = context.weights(column, tokens)
                q_T = _decode_values(coder, int(entropy_model.reach[column]), _FAMILY, weights_TV)
                context.learn(column, tokens, q_T)
                q_DT[column, context.grid.order[tokens]] = q_T
        for start, stop, weights_V, sparse in runs:
            count = num_tokens * (stop - start)
            if not sparse:
                q_N = _decode_values(coder, _reach(weights_V), _same_for_all(weights_V, lazy=True), count)
                q_DT[start:stop] = q_N.reshape(stop - start, num_tokens)
                continue
            places, values = _decode_sparse(coder, weights_V, count)
            places += start * num_tokens
            if start < len(q_DT):
                q_DT.reshape(-1)[places] = values
            else:
                apart.append((places, values))
    except AssertionError:  # what constriction raises at a state that no encoder reaches
        malformed("its range-coded stream is invalid")
    places, values = (np.concatenate(parts) for parts in zip(*apart, strict=True))
    return Coefficients(q_DT.T, places, values)


def _same_for_all(weights_V: F32, *, lazy: bool) -> Any:
    """Makes the model of all values: by a table (encodes faster), or `lazy` by sums while searching (decodes faster)."""
    return _models.Categorical(weights_V, perfect=False, lazy=lazy)


def _reach(weights_V: F32) -> int:
    return len(weights_V) // 2 - 1


def _encode_values(coder: Any, q_N: Whole, reach: int, *model: Any) -> None:
    beyond = np.abs(q_N) > reach
    coder.encode(np.where(beyond, 2 * reach + 1, q_N + reach).astype(np.int32, copy=False), *model)
    for value in q_N[beyond].tolist():
        _encode_escape(coder, value, reach)


def _decode_values(coder: Any, reach: int, *model: Any) -> Whole:
    q_N: Whole = coder.decode(*model)
    q_N -= np.int32(reach)
    if q_N.max(initial=0) > reach:
        for index in np.flatnonzero(q_N > reach):
            q_N[index] = _decode_escape(coder, reach)
    return q_N


def _encode_sparse(coder: Any, q_N: Whole, weights_V: F32) -> None:
    places = np.flatnonzero(q_N)
    symbols = gaps.symbols_of(places)
    gap_weights, value_weights_V = gaps.models_of(weights_V)
    coder.encode(len(symbols), _models.Uniform(len(q_N) + 1))
    coder.encode(symbols, _same_for_all(gap_weights, lazy=False))
    _encode_values(coder, q_N[places], _reach(weights_V), _same_for_all(value_weights_V, lazy=False))


def _decode_sparse(coder: Any, weights_V: F32, count: int) -> tuple[I64, Whole]:
    """Returns where the values of a band stand, rising, and what they are."""
    gap_weights, value_weights_V = gaps.models_of(weights_V)
    num_symbols = int(coder.decode(_models.Uniform(count + 1)))
    places = gaps.places_of(coder.decode(_same_for_all(gap_weights, lazy=False), num_symbols))
    if len(places) and places[-1] >= count:
        malformed("a value stands beyond its band")
    return places, _decode_values(coder, _reach(weights_V), _same_for_all(value_weights_V, lazy=True), len(places))


def _encode_escape(coder: Any, value: int, reach: int) -> None:
    beyond = abs(value) - reach - 1
    bits = beyond.bit_length()
    coder.encode(bits, _models.Uniform(_LENGTHS))
    coder.encode(int(value < 0), _models.Uniform(2))
    if bits > 1:
        coder.encode(beyond - (1 << bits - 1), _models.Uniform(1 << bits - 1))


def _decode_escape(coder: Any, reach: int) -> int:
    bits = int(coder.decode(_models.Uniform(_LENGTHS)))
    negative = bool(coder.decode(_models.Uniform(2)))
    beyond = min(bits, 1)
    if bits > 1:
        beyond = (1 << bits - 1) + int(coder.decode(_models.Uniform(1 << bits - 1)))
    return (-1 if negative else 1) * (beyond + reach + 1)
