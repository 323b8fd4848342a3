"""An answer ends before its first stop string, wherever its pieces were cut, and shows no part of it before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.answering.stop_strings import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS, StopFilter, check_stop_strings
from splitvlm.errors import UsageError

# A small alphabet, so that stop strings occur, overlap one another and begin alike.
TEXTS = st.text("abé\n", max_size=24)
STOPS = st.lists(st.text("abé\n", min_size=1, max_size=5), max_size=4)


def defined(text: str, stop: list[str]) -> str:
    """Returns the answer by the definition: grow the text by one character until a stop string is complete at its end."""
    for end in range(1, len(text) + 1):
        complete = [word for word in stop if text[:end].endswith(word)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


def filtered(pieces: list[str], stop: list[str]) -> tuple[list[str], bool]:
    stop_filter = StopFilter(stop)
    shown = [stop_filter.push(piece) for piece in pieces]
    return [*shown, stop_filter.finish()], stop_filter.stopped


@given(st.lists(TEXTS, max_size=8), STOPS)
def test_an_answer_is_what_the_definition_says_wherever_it_is_cut(pieces: list[str], stop: list[str]) -> None:
    text = "".join(pieces)
    shown, stopped = filtered(pieces, stop)
    assert "".join(shown) == defined(text, stop)
    assert stopped == any(word in text for word in stop)


@given(st.lists(TEXTS, max_size=8), TEXTS, STOPS)
def test_what_was_shown_stays_right_however_the_answer_goes_on(pieces: list[str], later: str, stop: list[str]) -> None:
    stop_filter = StopFilter(stop)
    shown = "".join(map(stop_filter.push, pieces))
    assert defined("".join(pieces) + later, stop).startswith(shown)


@given(st.lists(TEXTS, max_size=8), STOPS)
def test_no_more_is_held_than_may_begin_a_stop_string(pieces: list[str], stop: list[str]) -> None:
    stop_filter = StopFilter(stop)
    shown = "".join(map(stop_filter.push, pieces))
    if not stop_filter.stopped:
        held = "".join(pieces)[len(shown) :]
        assert not held or any(word.startswith(held) for word in stop)


def test_without_stop_strings_everything_passes_at_once() -> None:
    assert filtered(["a", "", "b"], []) == (["a", "", "b", ""], False)


def test_nothing_follows_a_stop_string() -> None:
    assert filtered(["one\n", "\ntwo", "\n\nthree"], ["\n\n"]) == (["one", "", "", ""], True)


def test_the_longest_of_those_that_end_together_counts() -> None:
    assert filtered(["see ###"], ["#", "##"])[0] == ["see ", ""]
    assert filtered(["xEND"], ["D", "END"])[0] == ["x", ""]


@pytest.mark.parametrize("stop", [[""], ["a", ""], ["x" * (MAX_STOP_CHARACTERS + 1)], ["x"] * (MAX_STOP_STRINGS + 1)])
def test_unusable_stop_strings_are_refused(stop: list[str]) -> None:
    with pytest.raises(UsageError):
        check_stop_strings(stop)


def test_stop_strings_at_the_limits_are_taken() -> None:
    check_stop_strings(["x" * MAX_STOP_CHARACTERS] * MAX_STOP_STRINGS)
    check_stop_strings([])
