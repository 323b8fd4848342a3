"""Text as tokens come, and pictures as files come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from splitvlm.errors import UsageError
from splitvlm.model.dummy_processor import byte_tokenizer
from splitvlm.model.pictures import MAX_PIXELS, open_picture, read_picture
from splitvlm.model.text import TextStream

TOKENIZER: Any = byte_tokenizer(300, {"<end>": 256}, eos_token="<end>")


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
