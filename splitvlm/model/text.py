"""Token ids to text, as they come: never half a character."""

from __future__ import annotations

from typing import Any


class TextStream:
    """Turns one answer's token ids into pieces of text whose concatenation is the tokenizer's own decoding.

    A character of several bytes can be spread over several tokens, and some tokenizers drop a leading space or join words
    by what precedes. So the decoding is done over a window of tokens and only its settled part is given out, as in
    text-generation-inference's `decode_token` (server/text_generation_server/models/model.py). White space before the answer's
    first word is left out: most tokenizers put a space into the first token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # the window: its first token,
        self._shown = 0  # and the first token whose text was not given out
        self._begun = False  # something that is not white space was given out

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; empty while a character is incomplete."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._start : self._shown])
        now = self._decode(self._ids[self._start :])
        if now.endswith("\ufffd") or len(now) <= len(before):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return self._given(now[len(before) :])

    def finish(self) -> str:
        """What is left at the end of an answer: a broken character comes out as U+FFFD."""
        before = self._decode(self._ids[self._start : self._shown])
        now = self._decode(self._ids[self._start :])
        self._start = self._shown = len(self._ids)
        return self._given(now[len(before) :])

    def _given(self, piece: str) -> str:
        piece = piece if self._begun else piece.lstrip()
        self._begun = self._begun or bool(piece)
        return piece

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
