"""`splitvlm chat`: a conversation in a terminal, a line a question. Loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from splitvlm.client import ChatMessage, Connection, Options, Report
from splitvlm.client.messages import read_image_file
from splitvlm.errors import SplitvlmError

PROMPT = "> "


class Chat:
    """Holds a conversation and goes on with it. A question that fails is told, and left out."""

    def __init__(self, vlm: Connection, system: str, options: Options, *, verbose: bool) -> None:
        self._vlm = vlm
        self._options = options
        self._verbose = verbose
        self._begin: list[ChatMessage] = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._begin)
        self._images: list[Path] = []  # that the next question is about

    def run(self, images: Sequence[Path]) -> None:
        """Reads standard input to its end, or to `/quit`."""
        for path in images:
            self._show(path)
        while (line := _line()) is not None:
            command, _, argument = line.partition(" ")
            match command:
                case "":
                    continue
                case "/quit":
                    return
                case "/new":
                    self._messages, self._images = list(self._begin), []
                case "/image":
                    self._show(Path(argument.strip()).expanduser())
                case _ if command.startswith("/") and not Path(command).exists():
                    _say(f"There is no {command}. There are /image PATH, /new and /quit.")
                case _:
                    self._ask(line)

    def _show(self, path: Path) -> None:
        try:
            read_image_file(path)  # so that a wrong path is told before the question
            self._images.append(path)
        except SplitvlmError as error:
            _say(str(error))

    def _ask(self, question: str) -> None:
        asked: ChatMessage = {"role": "user", "content": [*self._images, question]}
        try:
            answer = self._vlm.chat([*self._messages, asked], **self._options)
            for piece in answer:
                print(piece, end="", flush=True)
        except SplitvlmError as error:
            _say(str(error))
            return
        print(flush=True)
        self._messages += [asked, {"role": "assistant", "content": answer.text}]
        self._images = []
        if answer.report.warning:
            _say(answer.report.warning)
        if self._verbose:
            _say(_described(answer.report))


def _described(report: Report) -> str:
    return (
        f"plan {report.plan}, answered by the {report.answered_by}, {report.bytes_sent} bytes sent, "
        f"{report.cached_tokens} of {report.prompt_tokens} prompt tokens cached, "
        f"first token {report.first_token_s * 1e3:.0f} ms, total {report.total_s * 1e3:.0f} ms"
    )


def _line() -> str | None:
    try:
        return input(PROMPT if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
