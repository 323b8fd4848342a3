"""Each shown token comes once, in order, with the piece of text that shows its first character."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_node.answering.shown_tokens import ShownTokens
from edge_node.answering.stop_strings import StopFilter
from splitvlm.domain import ChosenToken


def pieces(texts: list[str], stop: list[str]) -> list[tuple[str, list[int]]]:
    tokens, stop_filter, shown = ShownTokens(), StopFilter(stop), []
    for index, text in enumerate(texts):
        tokens.made(ChosenToken(index, -0.5), text)
        if piece := stop_filter.push(text):
            shown.append((piece, [int(token) for token in tokens.shown(piece)]))
    if piece := stop_filter.finish():
        shown.append((piece, [int(token) for token in tokens.shown(piece)]))
    return shown


def test_tokens_come_with_their_text() -> None:
    assert pieces(["a", "", "bc", ""], []) == [("a", [0]), ("bc", [1, 2])]


def test_tokens_of_a_stop_string_do_not_come() -> None:
    assert pieces(["Hello", " E", "N", "D!"], ["END"]) == [("Hello", [0]), (" ", [1])]


def test_what_was_held_comes_with_its_tokens() -> None:
    assert pieces(["a E", "N", "?"], ["END"]) == [("a ", [0]), ("EN?", [1, 2])]


def test_plain_tokens_are_no_tokens_to_show() -> None:
    tokens = ShownTokens()
    tokens.made(3, "abc")
    assert tokens.shown("abc") == ()


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=2))
def test_tokens_come_once_and_in_order(texts: list[str], stop: list[str]) -> None:
    shown = pieces(texts, stop)
    indexes = [index for _, of_piece in shown for index in of_piece]
    assert indexes == list(range(len(indexes)))
    assert len("".join(texts[: len(indexes)])) >= len("".join(piece for piece, _ in shown))
