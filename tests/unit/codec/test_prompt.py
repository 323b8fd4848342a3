"""A prompt's ids beside calibrated features: exact, small, and nothing else is taken for one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitvlm.codec.header import Cursor
from splitvlm.codec.prompt import MOST_OWN, Template, template_of
from splitvlm.errors import ProtocolError

TEMPLATE = Template((1, *[9] * 64, 2), (3, 4), 566)


@given(st.lists(st.integers(0, 565), max_size=40))
def test_a_questions_ids_cost_their_share_of_the_vocabulary(own: list[int]) -> None:
    ids = [*TEMPLATE.before, *own, *TEMPLATE.after]
    coded = TEMPLATE.encode(ids)
    assert coded is not None
    assert len(coded) <= 2 + len(own) * math.log2(566) / 8
    cursor = Cursor(coded + b"rest")
    assert TEMPLATE.decode(cursor, len(ids)) == ids
    assert bytes(cursor.take(cursor.left)) == b"rest"


@pytest.mark.parametrize(
    "ids",
    [
        (),
        TEMPLATE.before,
        TEMPLATE.before[1:] + TEMPLATE.after,
        (*TEMPLATE.before, 566, *TEMPLATE.after),
        (*TEMPLATE.before, -1, *TEMPLATE.after),
        (*TEMPLATE.before, *[5] * (MOST_OWN + 1), *TEMPLATE.after),
    ],
)
def test_other_prompts_are_none_of_the_template(ids: tuple[int, ...]) -> None:
    assert TEMPLATE.encode(ids) is None


@given(st.binary(max_size=40))
def test_any_bytes_are_ids_of_the_vocabulary_or_an_error(data: bytes) -> None:
    try:
        ids = TEMPLATE.decode(Cursor(data), 80)
    except ProtocolError:
        return
    assert len(ids) <= 80
    assert all(0 <= one < 566 for one in ids)


def test_ends_may_not_overlap() -> None:
    """Prompts that differ by nothing, or by one id more of the same, share no more than the shortest has."""
    assert template_of([[1, 5, 5, 2], [1, 5, 2]], 9) == Template((1, 5), (2,), 9)
    assert template_of([[1, 2], [1, 2]], 9) == Template((1, 2), (), 9)
    assert Template((1, 5), (5, 2), 9).encode([1, 5, 2]) is None
