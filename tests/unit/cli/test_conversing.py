"""What `splitvlm ask` and `chat` make of a command line and of the lines of a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest

from splitvlm.cli.ask_command import constraint_of, conversation_of
from splitvlm.cli.chat_command import Chat
from splitvlm.client import Connection, Report
from splitvlm.domain import Choices, ImagePart, JsonSchema, Speaker, TextPart
from splitvlm.errors import PeerUnavailable, UsageError


def test_the_last_word_is_the_question_and_the_others_are_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    conversation, images = conversation_of([str(tmp_path / "a.png"), str(tmp_path / "b.png"), "Same?"], "Be short.")
    system, user = conversation.messages
    assert (system.speaker, system.text) == (Speaker.SYSTEM, "Be short.")
    assert user.parts == (ImagePart(), ImagePart(), TextPart("Same?"))
    assert images == [b"a.png", b"b.png"]
    assert conversation_of(["Hello?"])[0].num_images == 0


def test_a_picture_alone_is_no_question(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match="There is no question about"):
        conversation_of([str(tmp_path / "a.png")])
    with pytest.raises(UsageError, match="Cannot read the picture"):
        conversation_of([str(tmp_path / "none.png"), "What?"])


def test_constraints_come_from_a_file_or_a_list(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    assert constraint_of(None, "") is None
    assert constraint_of(None, "yes, no") == Choices(("yes", "no"))
    assert constraint_of(schema, "") == JsonSchema('{"type": "object"}')
    with pytest.raises(UsageError, match="Give one of them"):
        constraint_of(schema, "yes,no")


class FakeAnswer:
    report = Report("tokens/int4", "cloud", "stop", 40, 9, 70, 64, 60, (5,), 0.1, 0.2, {})
    text = ""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Any:
        for piece in self._pieces:
            self.text += piece
            yield piece


class FakeConnection:
    """Answers with the number of messages; it fails where a question says so."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def chat(self, messages: list[Any], **options: Any) -> FakeAnswer:
        if "fail" in str(messages[-1]["content"]):
            raise PeerUnavailable("The edge node went.")
        self.asked.append((messages, options))
        return FakeAnswer([f"answer to {len(messages)}", " messages"])


def talk(monkeypatch: pytest.MonkeyPatch, lines: list[str], images: list[Path], **more: Any) -> FakeConnection:
    connection = FakeConnection()
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    Chat(cast(Connection, connection), "Be short.", {"seed": 1}, **{"verbose": False} | more).run(images)
    return connection


def test_a_conversation_goes_on_line_by_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    lines = [
        "What is it?",
        "",
        "please fail",
        f"/image {second}",
        "/image none.png",
        "And this?",
        "/what",
        "/new",
        "Hi",
    ]
    connection = talk(monkeypatch, [*lines, "/quit", "never"], [first], verbose=True)
    system = {"role": "system", "content": "Be short."}
    [one, two, three] = [messages for messages, _ in connection.asked]
    assert one == [system, {"role": "user", "content": [first, "What is it?"]}]
    answered = {"role": "assistant", "content": "answer to 2 messages"}
    assert two == [*one, answered, {"role": "user", "content": [second, "And this?"]}]
    assert three == [system, {"role": "user", "content": ["Hi"]}]
    assert connection.asked[0][1] == {"seed": 1}
    out, err = capsys.readouterr()
    assert out == "answer to 2 messages\nanswer to 4 messages\nanswer to 2 messages\n"
    assert "The edge node went." in err
    assert "Cannot read the picture none.png" in err
    assert "There is no /what." in err
    assert "60 of 70 prompt tokens cached" in err


def test_the_end_of_the_input_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert talk(monkeypatch, [], []).asked == []
