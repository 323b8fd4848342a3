"""Incremental detokenisation: token ids become text as they come, and never half a character."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tokenizers.decoders import DecodeStream

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@cache
def _bytes_of_letters() -> dict[str, int]:
    """Returns the byte behind each letter of byte-level vocabularies (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


def token_bytes(tokenizer: Any, token_id: int) -> bytes:
    """Returns what a token writes, which may be part of a character; for a special token its name.

    `tokenizer` is one of the tokenizers library. White space in front stays, other than in an answer's first word.
    """
    token = tokenizer.id_to_token(int(token_id)) or ""
    letters = _bytes_of_letters()
    if "ByteLevel(" in repr(tokenizer.decoder) and all(letter in letters for letter in token):
        return bytes(letters[letter] for letter in token)
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes.fromhex(match[1])
    text: str = token.replace("\u2581", " ")  # SentencePiece's space
    return text.encode()


class TextStream:
    """Turns one answer's token ids into pieces of text, by the `DecodeStream` of the tokenizers library.

    The pieces' concatenation is what the tokenizer makes of all ids, without the white space before the first word (most
    tokenizers put a space into an answer's first token). Special tokens give no text. `tokenizer` is one of transformers
    that stands on the tokenizers library; `load_processor` refuses others.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._unsettled_ids: list[int] = []  # since the last piece: of a character whose bytes are not all here
        self._begun = False  # something that is not white space was given out

    def push(self, token_id: int) -> str:
        """Returns the text that became certain with this token; empty while a character is incomplete."""
        self._unsettled_ids.append(token_id)
        piece = self._step(token_id)
        if piece:
            self._unsettled_ids.clear()
        return self._without_leading_space(piece)

    def finish(self) -> str:
        """Returns what is left at the end of an answer: a broken character comes out as U+FFFD."""
        piece = str(self._tokenizer.decode(self._unsettled_ids, skip_special_tokens=True))
        self._unsettled_ids.clear()
        return self._without_leading_space(piece)

    def _step(self, token_id: int) -> str:
        try:
            return self._stream.step(self._tokenizer, token_id) or ""
        except Exception as error:  # the library raises no kind of its own
            if "Invalid prefix" not in str(error):
                raise
            # Byte tokens that make no character changed the text of those before them, which has been given out.
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._tokenizer, token_id) or ""

    def _without_leading_space(self, piece: str) -> str:
        piece = piece if self._begun else piece.lstrip()
        self._begun = self._begun or bool(piece)
        return piece
