"""Text as tokens come, and pictures as files come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from splitvlm.errors import UsageError
from splitvlm.model.dummy_processor import byte_tokenizer
from splitvlm.model.pictures import MAX_PIXELS, open_picture, read_picture
from splitvlm.model.text import TextStream, token_bytes

TOKENIZER: Any = byte_tokenizer(300, {"<end>": 256}, eos_token="<end>")


def sentencepiece_like(*, strips: bool) -> Any:
    """A tokenizer of Llama's sort (`strips`) or Gemma's: word pieces, and bytes for what they cannot spell."""
    pieces = [
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "▁hello",
        "▁world",
        "▁the",
        "ing",
        "a",
        ".",
        "é",
        "日",
    ]
    core = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, [], byte_fallback=True))
    strip = [decoders.Strip(" ", 1, 0)] if strips else []
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    core.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")


SENTENCEPIECE_LIKE = {strips: sentencepiece_like(strips=strips) for strips in (True, False)}
WORDS = ["▁", "▁hello", "▁world", "▁the", "ing", "a", ".", "é", "日", "</s>"]
characters = st.characters(codec="utf-8", min_codepoint=128).map(lambda c: [f"<0x{byte:02X}>" for byte in c.encode()])


@pytest.mark.parametrize("strips", [True, False])
@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(st.sampled_from(WORDS).map(lambda word: [word]) | characters, max_size=12))
def test_tokenizers_with_byte_fallback_give_the_whole_text_too(strips: bool, pieces: list[list[str]]) -> None:
    tokenizer = SENTENCEPIECE_LIKE[strips]
    ids = tokenizer.convert_tokens_to_ids([token for piece in pieces for token in piece])
    stream = TextStream(tokenizer)
    streamed = "".join([stream.push(i) for i in ids]) + stream.finish()
    assert streamed == tokenizer.decode(ids, skip_special_tokens=True).lstrip()


@pytest.mark.parametrize("strips", [True, False])
@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 256 + 9), max_size=16))
@example(ids=[22, 209, 99, 176, 258, 163])
def test_bytes_that_make_no_character_end_no_answer(strips: bool, ids: list[int]) -> None:
    """A model may say any token after any other; the words after broken bytes still come."""
    tokenizer = SENTENCEPIECE_LIKE[strips]
    stream = TextStream(tokenizer)
    for token_id in ids:
        stream.push(token_id)
    assert "hello" in "".join(stream.push(i) for i in tokenizer.convert_tokens_to_ids(["▁hello", "a"]))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_pieces_make_the_whole_and_no_half_characters(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    stream = TextStream(TOKENIZER)
    pieces = [stream.push(i) for i in ids]
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text
    assert "".join(pieces) + stream.finish() == TOKENIZER.decode(ids, skip_special_tokens=True).lstrip()


@pytest.mark.parametrize("text", [" 1", "\n\n  two words ", "  ", "\u3000は い"])
def test_an_answer_begins_with_its_first_word(text: str) -> None:
    """Most tokenizers put a space into an answer's first token; scripts compared it with what they expected."""
    stream = TextStream(TOKENIZER)
    pieces = [stream.push(i) for i in TOKENIZER(text)["input_ids"]]
    assert "".join(pieces) + stream.finish() == text.lstrip()


def test_a_character_of_four_bytes_comes_at_once() -> None:
    stream = TextStream(TOKENIZER)
    assert [stream.push(i) for i in TOKENIZER("a🙂b")["input_ids"]] == ["a", "", "", "", "🙂", "b"]


def test_end_tokens_are_silent_and_broken_characters_come_out_last() -> None:
    stream = TextStream(TOKENIZER)
    assert stream.push(256) == ""
    half = TOKENIZER("é")["input_ids"][0]
    assert stream.push(half) == ""
    assert stream.finish() == "\ufffd"


def test_pictures_open_upright_in_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    found = open_picture(tmp_path / "a.jpg")
    assert (found.mode, found.size) == ("RGB", (20, 40))


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("words")
    Image.effect_noise((64, 64), 50).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:900])
    for path, words in [
        (tmp_path / "none.png", "There is no picture at"),
        (tmp_path, "is a folder, not a picture"),
        (tmp_path / "a.png", "is not a picture. Use a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF file"),
        (tmp_path / "b.png", "is damaged"),
    ]:
        with pytest.raises(UsageError) as caught:
            open_picture(path)
        assert words in str(caught.value)


@pytest.mark.parametrize("edge", [9_000, 14_000])
def test_too_many_pixels_are_refused_by_the_header(edge: int, tmp_path: Path) -> None:
    assert edge * edge > MAX_PIXELS
    Image.new("1", (edge, edge)).save(tmp_path / "bomb.png")
    with pytest.raises(UsageError, match="is too large"):
        open_picture(tmp_path / "bomb.png")
    with pytest.raises(UsageError, match="the picture is too large"):
        read_picture((tmp_path / "bomb.png").read_bytes())


@pytest.mark.parametrize("text", ["Grüße, 日本!", "a\n\tb", "e\u0301 \x00"])
def test_the_bytes_of_byte_level_tokens_are_those_of_the_text(text: str) -> None:
    token_ids = TOKENIZER.encode(text)
    assert b"".join(token_bytes(TOKENIZER.backend_tokenizer, each) for each in token_ids) == text.encode()


def test_the_bytes_of_word_pieces_have_their_space() -> None:
    core = sentencepiece_like(strips=True).backend_tokenizer
    pieces = ["▁hello", "ing", "<0xE6>", "</s>", "日"]
    written = [token_bytes(core, core.token_to_id(piece)) for piece in pieces]
    assert written == [b" hello", b"ing", b"\xe6", b"</s>", "日".encode()]
