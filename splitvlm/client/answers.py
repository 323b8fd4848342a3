"""Answers as they come: pieces of text, then the report. One for programs with an event loop, one for those without."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Self

from splitvlm.client.loop_thread import LoopThread
from splitvlm.client.report import Report, report_of
from splitvlm.errors import UsageError
from splitvlm.wire.v1 import local_pb2 as pb


class AsyncAnswer:
    """Gives the pieces of an answer. It is asked when the first piece is; whoever leaves earlier calls `aclose`."""

    def __init__(self, messages: AsyncGenerator[pb.Answer, None]) -> None:
        self._messages = messages
        self.text = ""  # so far
        self.plan = ""  # from the first piece on
        self._report: Report | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Returns the next piece of text. Raises SplitvlmError."""
        async for message in self._messages:
            match message.WhichOneof("body"):
                case "chosen":
                    self.plan = message.chosen.plan
                case "report":
                    self._report = report_of(message.report)
                case "text":
                    self.text += message.text
                    return message.text
        raise StopAsyncIteration

    async def read(self) -> str:
        """Returns the whole text when the answer is complete. Raises SplitvlmError."""
        async for _ in self:
            pass
        return self.text

    async def aclose(self) -> None:
        """Cancels what is left of the answer, on both nodes."""
        await self._messages.aclose()

    @property
    def report(self) -> Report:
        """Returns what happened. Raises UsageError while the answer is not complete."""
        if self._report is None:
            raise UsageError("The answer is not complete, so there is no report yet.", advice="Read it to its end.")
        return self._report


class Answer:
    """Gives the pieces of an answer to a program without an event loop. `close` cancels what is left of it."""

    def __init__(self, answer: AsyncAnswer, thread: LoopThread) -> None:
        self._answer = answer
        self._thread = thread

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        """Returns the next piece of text. Raises SplitvlmError."""
        piece = self._thread.run(anext(self._answer, None))
        if piece is None:
            raise StopIteration
        return piece

    def read(self) -> str:
        """Returns the whole text when the answer is complete. Raises SplitvlmError."""
        return self._thread.run(self._answer.read())

    def close(self) -> None:
        """Cancels what is left of the answer, on both nodes."""
        self._thread.run(self._answer.aclose())

    @property
    def text(self) -> str:
        """Returns the text so far."""
        return self._answer.text

    @property
    def plan(self) -> str:
        """Returns the plan; it is known from the first piece on."""
        return self._answer.plan

    @property
    def report(self) -> Report:
        """Returns what happened. Raises UsageError while the answer is not complete."""
        return self._answer.report
